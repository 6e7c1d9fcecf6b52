// Finds faces as OwnFinder of jointface/detection/finders.py does.
import * as ort from "./vendor/ort.wasm.min.mjs";
import { distinct, largestFirst, surestFirst } from "./boxes.js";

/** The faces in a picture (ImageBitmap), the largest first: {x, y, size, score} in its pixels. */
export async function findFaces(session, picture, constants) {
  const looks = [];
  const sizes = pyramid(picture, constants);
  for (const size of sizes) looks.push(await look(session, picture, size, constants));
  if (mayBeLarger(looks.at(-1), constants)) {
    looks.push(await look(session, picture, resized(sizes.at(-1), constants.largeFaces), constants));
  }
  const last = looks.pop();
  const found = [...looks.flat().filter((face) => face.pixels <= constants.largest), ...last];
  const faces = largestFirst(distinct(surestFirst(found)));
  return faces
    .map((face) => ({ ...face, score: doubted(face.score, constants.lesserDoubt * (1 - face.size / faces[0].size)) }))
    .filter((face) => face.score >= constants.threshold);
}

/** A score whose distance from 1 grows by a share. */
function doubted(score, doubt) {
  return 1 - (1 - score) * (1 + doubt);
}

/** Whether there may be a face above the largest of a look: one was found, or none at all. */
function mayBeLarger(look, { largest }) {
  return look.length === 0 || look.some((face) => face.pixels > largest);
}

function resized(size, scale) {
  return size.map((side) => Math.max(1, Math.round(scale * side)));
}

/** The sizes [width, height] at which faces are sought first, from the finest to the coarsest. */
function pyramid({ width, height }, { area, finer, smallPhoto }) {
  const base = Math.min(Math.sqrt(area / (width * height)), Math.max(1, smallPhoto / Math.max(width, height)));
  const finest = Math.min(1, finer * base);
  const scales = base < 1 && finest > 1.2 * base ? [finest, base] : [base];
  return scales.map((scale) => resized([width, height], scale));
}

/** Faces in a picture that is searched at a size: {x, y, size, score}, and their size in its `pixels`. */
async function look(session, picture, [width, height], { grey, threshold, small, smallDoubt }) {
  const [columns, rows] = [width, height].map((side) => 32 * Math.ceil(side / 32));
  const canvas = new OffscreenCanvas(columns, rows).getContext("2d", { willReadFrequently: true });
  canvas.fillStyle = `rgb(${grey} ${grey} ${grey})`;
  canvas.fillRect(0, 0, columns, rows);
  canvas.imageSmoothingQuality = "high";
  canvas.drawImage(picture, 0, 0, width, height);
  const { data } = canvas.getImageData(0, 0, columns, rows);
  const pixels = new ort.Tensor("uint8", new Uint8Array(data.buffer), [rows, columns, 4]);
  const { faces } = await session.run({ pixels });
  const found = [];
  for (let i = 0; i < faces.data.length; i += 4) {
    const [x, y, size, cell] = faces.data.subarray(i, i + 4);
    const score = doubted(cell, smallDoubt * Math.max(0, 1 - size / small));
    const face = inPicture(x, y, size, picture.width / width, picture.height / height);
    const inside = face.x > -0.5 && face.y > -0.5 && face.x < picture.width - 0.5 && face.y < picture.height - 0.5;
    if (score >= threshold && inside) found.push({ ...face, score, pixels: size });
  }
  return found;
}

function inPicture(x, y, size, across, down) {
  return { x: (x + 0.5) * across - 0.5, y: (y + 0.5) * down - 0.5, size: (size * (across + down)) / 2 };
}
