// Reads the faces in a picture as FaceReader of jointface/inference/reader.py does, in two passes.
import * as ort from "./vendor/ort.wasm.min.mjs";
import { boxOf, distinct, largestFirst, surestFirst } from "./boxes.js";
import { findFaces } from "./finder.js";

ort.env.wasm.wasmPaths = new URL("./vendor/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need headers that not every host sends

export class FaceReader {
  static async load() {
    const reader = new FaceReader();
    [reader.facts, reader.finder, reader.network] = await Promise.all([
      fetch("facts.json").then((answer) => answer.json()),
      ort.InferenceSession.create("finder.onnx"),
      ort.InferenceSession.create("network.onnx"),
    ]);
    return reader;
  }

  /**
   * The faces, the largest first: {x, y, size} of the landmarks, vertices and landmarks in pixels of the picture (x
   * right, y down, z towards the viewer), the rotation of the head row by row, the probabilities of facts.attributes,
   * and the finder's score.
   */
  async read(picture) {
    const faces = [];
    for (const box of await findFaces(this.finder, picture, this.facts.finder)) {
      const first = await this.#pass(picture, box);
      faces.push({ ...(await this.#pass(picture, this.#reframed(box, first))), score: box.score });
    }
    return largestFirst(distinct(surestFirst(faces)));
  }

  async #pass(picture, box) {
    const side = this.facts.imageSize;
    const scale = side / (this.facts.cropMargin * box.size);
    const image = new ort.Tensor("uint8", cutCrop(picture, box, side, scale), [1, 3, side, side]);
    const { vertices, landmarks68, pose, probabilities } = await this.network.run({ image });
    const inPicture = (points) => {
      const centre = { x: box.x - (side - 1) / 2 / scale, y: box.y - (side - 1) / 2 / scale };
      return points.map((value, i) => value / scale + [centre.x, centre.y, 0][i % 3]);
    };
    const landmarks = inPicture(landmarks68.data);
    const read = { vertices: inPicture(vertices.data), rotation: pose.data, probabilities: probabilities.data };
    return { ...boxOf(landmarks), landmarks, ...read };
  }

  /** The box of a face's own landmarks, unless it is far from where the face was found. */
  #reframed(old, read) {
    const { maxChange } = this.facts;
    const moved = Math.max(Math.abs(read.x - old.x), Math.abs(read.y - old.y)) / old.size;
    const grown = read.size / old.size;
    return moved <= maxChange && grown <= maxChange && grown >= 1 / maxChange ? read : old;
  }
}

/** The crop of a box: side x side pixels, all red ones first. Beyond the picture's border it shows its reflection. */
function cutCrop(picture, box, side, scale) {
  const canvas = new OffscreenCanvas(side, side).getContext("2d", { willReadFrequently: true });
  canvas.imageSmoothingQuality = "high";
  const { width, height } = picture;
  const left = side / 2 - scale * (box.x + 0.5); // of the picture in the crop
  const top = side / 2 - scale * (box.y + 0.5);
  for (const [i, x] of tiles(left, scale * width, side)) {
    for (const [j, y] of tiles(top, scale * height, side)) {
      const [flipX, flipY] = [i, j].map((tile) => tile % 2 !== 0);
      canvas.setTransform(
        flipX ? -scale : scale, 0, 0, flipY ? -scale : scale, //
        flipX ? x + scale * width : x, flipY ? y + scale * height : y,
      );
      canvas.drawImage(picture, 0, 0);
    }
  }
  const { data } = canvas.getImageData(0, 0, side, side);
  const area = side * side;
  return Uint8Array.from({ length: 3 * area }, (_, i) => data[4 * (i % area) + Math.floor(i / area)]);
}

/** Numbers and starts of the copies of a picture, side by side, that a crop shows. */
function tiles(start, length, side) {
  const first = Math.ceil(-start / length) - 1;
  const last = Math.floor((side - start) / length);
  return Array.from({ length: last - first + 1 }, (_, i) => [first + i, start + (first + i) * length]);
}
