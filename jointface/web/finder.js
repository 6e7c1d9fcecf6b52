// Finds faces as OwnFinder of jointface/detection/finders.py does.
import * as ort from "./vendor/ort.wasm.min.mjs";
import { distinct, largestFirst, surestFirst } from "./boxes.js";

/** The faces in a picture (ImageBitmap), the largest first: {x, y, size, score} in its pixels. */
export async function findFaces(session, picture, constants) {
  const found = [];
  const sizes = pyramid(picture, constants);
  for (const [level, size] of sizes.entries()) {
    const largest = level < sizes.length - 1 ? constants.largest : Infinity; // larger faces are left to coarser looks
    found.push(...(await look(session, picture, size, largest, constants)));
  }
  const faces = largestFirst(distinct(surestFirst(found)));
  return faces
    .map((face) => ({ ...face, score: doubted(face.score, constants.lesserDoubt * (1 - face.size / faces[0].size)) }))
    .filter((face) => face.score >= constants.threshold);
}

/** A score whose distance from 1 grows by a share. */
function doubted(score, doubt) {
  return 1 - (1 - score) * (1 + doubt);
}

/** The sizes [width, height] at which faces are sought, from the finest to the coarsest. */
function pyramid({ width, height }, { area, finer, largeFaces, smallPhoto }) {
  const base = Math.min(Math.sqrt(area / (width * height)), Math.max(1, smallPhoto / Math.max(width, height)));
  const finest = Math.min(1, finer * base);
  const scales = base < 1 && finest > 1.2 * base ? [finest, base] : [base];
  return [...scales, base * largeFaces].map((scale) =>
    [width, height].map((side) => Math.max(1, Math.round(scale * side))),
  );
}

async function look(session, picture, [width, height], largest, { grey, threshold, small, smallDoubt }) {
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
    if (score >= threshold && size <= largest && inside) found.push({ ...face, score });
  }
  return found;
}

function inPicture(x, y, size, across, down) {
  return { x: (x + 0.5) * across - 0.5, y: (y + 0.5) * down - 0.5, size: (size * (across + down)) / 2 };
}
