// Shows the shape of a face, textured with the photo, in a canvas.
import * as three from "./vendor/three.module.js";
import { OrbitControls } from "./vendor/OrbitControls.js";

const SWAY = 0.5; // radians to either side
const STEP = 0.15; // radians of an arrow key
const STEPS = { ArrowLeft: [0, -STEP], ArrowRight: [0, STEP], ArrowUp: [-STEP, 0], ArrowDown: [STEP, 0] };

export class ShapeView {
  constructor(canvas) {
    this.canvas = canvas;
    this.renderer = new three.WebGLRenderer({ canvas, alpha: true, antialias: true, preserveDrawingBuffer: true });
    this.camera = new three.PerspectiveCamera(25, 1, 0.1, 100);
    this.camera.position.z = 5;
    this.scene = new three.Scene();
    this.controls = new OrbitControls(this.camera, canvas);
    this.controls.enablePan = false;
    this.sways = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.controls.addEventListener("start", () => (this.sways = false));
    canvas.addEventListener("keydown", (event) => this.#turn(event));
    this.renderer.setAnimationLoop((time) => this.#draw(time));
  }

  /** Shows a face. picture: the ImageBitmap that the vertices lie on. */
  show(face, triangles, picture) {
    this.#remove();
    const { vertices, x, y, size } = face;
    const count = vertices.length / 3;
    const positions = new Float32Array(3 * count);
    const uv = new Float32Array(2 * count);
    for (let i = 0; i < count; i++) {
      const [across, down, near] = vertices.subarray(3 * i, 3 * i + 3);
      positions.set([(across - x) / size, (y - down) / size, near / size], 3 * i);
      uv.set([(across + 0.5) / picture.width, (down + 0.5) / picture.height], 2 * i);
    }
    const geometry = new three.BufferGeometry();
    geometry.setAttribute("position", new three.BufferAttribute(positions, 3));
    geometry.setAttribute("uv", new three.BufferAttribute(uv, 2));
    geometry.setIndex(triangles);
    geometry.center();
    const texture = new three.CanvasTexture(picture);
    texture.flipY = false; // browsers never flip an ImageBitmap
    texture.colorSpace = three.SRGBColorSpace;
    this.mesh = new three.Mesh(geometry, new three.MeshBasicMaterial({ map: texture, side: three.DoubleSide }));
    this.scene.add(this.mesh);
  }

  #remove() {
    if (!this.mesh) return;
    this.scene.remove(this.mesh);
    this.mesh.geometry.dispose();
    this.mesh.material.map.dispose();
    this.mesh.material.dispose();
  }

  #turn(event) {
    const step = STEPS[event.key];
    if (!step || !this.mesh) return;
    event.preventDefault();
    this.sways = false;
    this.mesh.rotation.x += step[0];
    this.mesh.rotation.y += step[1];
  }

  #draw(time) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!this.mesh || !width) return;
    const size = this.renderer.getSize(new three.Vector2());
    if (size.x !== width || size.y !== height) {
      this.renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
      this.renderer.setSize(width, height, false);
      this.camera.aspect = width / height;
      this.camera.updateProjectionMatrix();
    }
    if (this.sways) this.mesh.rotation.y = SWAY * Math.sin(time / 1000);
    this.controls.update();
    this.renderer.render(this.scene, this.camera);
  }
}
