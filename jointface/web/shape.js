// Shows the shape of a face, textured with the photo, in a canvas.
import * as three from "./vendor/three.module.js";
import { OrbitControls } from "./vendor/OrbitControls.js";
import { faceMesh } from "./mesh.js";

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
    this.controls.addEventListener("change", () => (this.isStale = true));
    canvas.addEventListener("keydown", (event) => this.#turn(event));
    this.renderer.setAnimationLoop((time) => this.#draw(time));
  }

  /** Shows a face. picture: the ImageBitmap that the vertices lie on. */
  show(face, triangles, picture) {
    this.#remove();
    this.mesh = faceMesh(face, triangles, picture);
    this.mesh.geometry.center();
    this.mesh.scale.setScalar(1 / face.size);
    this.scene.add(this.mesh);
    this.isStale = true;
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
    this.isStale = true;
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
      this.isStale = true;
    }
    if (this.sways) this.mesh.rotation.y = SWAY * Math.sin(time / 1000);
    else if (!this.isStale) return; // it would draw the same again
    this.renderer.render(this.scene, this.camera);
    this.isStale = false;
  }
}
