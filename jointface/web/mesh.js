// The mesh of a face, textured with the part of the photo that it covers, and a file of it.
import * as three from "./vendor/three.module.js";
import { GLTFExporter } from "./vendor/GLTFExporter.js";
import { limits } from "./boxes.js";

const MAX_TEXTURE = 2048; // side in pixels of the file's texture; a larger part of a photo is shrunk

/** The face as `photo_mesh` of jointface/inference/mesh_files.py: x right, y up, z towards the viewer, in pixels. */
export function faceMesh({ vertices }, triangles, picture) {
  const clamp = (value, last) => Math.min(Math.max(value, 0), last);
  const part = (axis, last) => {
    const [low, high] = limits(vertices, axis).map((value) => clamp(value, last));
    return [Math.floor(low), Math.ceil(high) + 1 - Math.floor(low)];
  };
  const [left, width] = part(0, picture.width - 1);
  const [top, height] = part(1, picture.height - 1);
  const count = vertices.length / 3;
  const [positions, uv] = [new Float32Array(3 * count), new Float32Array(2 * count)];
  for (let i = 0; i < count; i++) {
    const [x, y, z] = vertices.subarray(3 * i, 3 * i + 3);
    positions.set([x, -y, z], 3 * i);
    const [across, down] = [clamp(x, picture.width - 1) - left, clamp(y, picture.height - 1) - top];
    uv.set([(across + 0.5) / width, (down + 0.5) / height], 2 * i);
  }
  const geometry = new three.BufferGeometry();
  geometry.setAttribute("position", new three.BufferAttribute(positions, 3));
  geometry.setAttribute("uv", new three.BufferAttribute(uv, 2));
  geometry.setIndex(triangles);
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").drawImage(picture, left, top, width, height, 0, 0, width, height);
  const texture = new three.CanvasTexture(canvas);
  texture.flipY = false; // v is down, as in glTF
  texture.colorSpace = three.SRGBColorSpace;
  texture.userData.mimeType = "image/jpeg"; // in the file
  return new three.Mesh(geometry, new three.MeshBasicMaterial({ map: texture, side: three.DoubleSide }));
}

/** Its .glb file, as an ArrayBuffer. */
export function toGlb(mesh) {
  return new GLTFExporter().parseAsync(mesh, { binary: true, maxTextureSize: MAX_TEXTURE });
}
