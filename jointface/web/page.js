// What the visitor sees and does.
import { Camera, whyNoCamera } from "./camera.js";
import { faceMesh, toGlb } from "./mesh.js";
import { drawOverlay } from "./overlay.js";
import { FaceReader } from "./reader.js";
import { ShapeView } from "./shape.js";
import { toCsv } from "./table.js";

const EXAMPLES = 4; // drawn people
const MOST_PIXELS = 12e6; // of a photo; larger ones are reduced
const SHOWN = 12; // attributes

const element = (id) => document.getElementById(id);
const say = (text) => (element("message").textContent = text);

const camera = new Camera(element("video"));
let reader, view;
let busy = false;

async function start() {
  for (let number = 0; number < EXAMPLES; number++) addExample(number);
  try {
    reader = await FaceReader.load();
  } catch (error) {
    say(`The network cannot be loaded (${error.message}). Reload the page; it needs a browser with WebAssembly.`);
    return;
  }
  const file = element("file");
  file.disabled = false;
  file.addEventListener("change", () => file.files.length && readPhoto(file.files[0]));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    const [dropped] = event.dataTransfer.files;
    if (dropped) readPhoto(dropped);
  });
  element("camera").addEventListener("click", useCamera);
  element("take").addEventListener("click", async () => readPhoto(await camera.take(), "camera"));
  document.querySelectorAll("#camera, #examples button").forEach((button) => (button.disabled = false));
  say("Ready.");
}

function addExample(number) {
  const button = document.createElement("button");
  const name = `${number}.jpg`;
  const image = Object.assign(new Image(), { src: `examples/${name}`, alt: `Drawn photo ${number + 1}`, name });
  button.append(image);
  button.disabled = true;
  button.addEventListener("click", () => readPhoto(image));
  element("examples").append(button);
}

/** Opens the camera, or closes it. */
async function useCamera() {
  try {
    if (camera.isOpen) camera.close();
    else await camera.open();
    say(camera.isOpen ? "Take the photo when the face is in the picture." : "The camera is off.");
  } catch (error) {
    camera.close();
    say(whyNoCamera(error));
  }
  showCamera();
}

function showCamera() {
  element("camera").textContent = camera.isOpen ? "Close the camera" : "Use the camera";
  element("take").hidden = element("video").hidden = !camera.isOpen;
  element("overlay").hidden = camera.isOpen;
}

/** Reads a photo: a file, an image of the page, or what the camera saw. */
async function readPhoto(source, name = source.name) {
  if (busy) return;
  busy = true;
  camera.close();
  showCamera();
  element("results").hidden = true;
  say("Reading …");
  try {
    const picture = await openPicture(source, name);
    await new Promise((shown) => setTimeout(shown)); // the message first
    const faces = await reader.read(picture);
    drawOverlay(element("overlay"), picture, faces, reader.facts.triangles);
    if (faces.length) showFaces(faces, picture, name);
    const count = faces.length === 1 ? "One face." : `${faces.length} faces, the largest first.`;
    say(faces.length ? count : "No face was found. Choose a photo in which a face is larger or easier to see.");
  } catch (error) {
    say(error instanceof UserError ? error.message : `This photo cannot be read (${error.message}). Try a smaller one.`);
  } finally {
    busy = false;
  }
}

class UserError extends Error {}

/** The upright picture of a file or an image. */
async function openPicture(source, name) {
  let picture;
  try {
    picture = await createImageBitmap(source);
  } catch {
    throw new UserError(`${name} is not a picture that this browser can read. Choose a JPEG, PNG or WebP file.`);
  }
  const scale = Math.sqrt(MOST_PIXELS / (picture.width * picture.height));
  if (scale >= 1) return picture;
  const size = { resizeWidth: Math.round(scale * picture.width), resizeHeight: Math.round(scale * picture.height) };
  const reduced = await createImageBitmap(picture, { ...size, resizeQuality: "high" });
  picture.close();
  return reduced;
}

function showFaces(faces, picture, name) {
  const stem = name.replace(/\.\w+$/, "");
  const buttons = faces.map((face, place) => {
    const button = document.createElement("button");
    button.textContent = place + 1;
    button.ariaLabel = `Face ${place + 1}`;
    button.addEventListener("click", () => choose(place));
    return button;
  });
  const choose = (place) => {
    buttons.forEach((button, other) => (button.ariaPressed = String(other === place)));
    view.show(faces[place], reader.facts.triangles, picture);
    showAttributes(faces[place].probabilities);
    element("mesh").onclick = async () => {
      const mesh = faceMesh(faces[place], reader.facts.triangles, picture);
      save(`${stem}_${place + 1}.glb`, await toGlb(mesh));
    };
  };
  element("table").onclick = () => save(`${stem}.csv`, toCsv(faces, reader.facts.attributes, picture, name));
  element("faces").replaceChildren(...(faces.length > 1 ? buttons : []));
  element("results").hidden = false;
  view ??= new ShapeView(element("shape"));
  choose(0);
}

function showAttributes(probabilities) {
  const named = reader.facts.attributes.map((name, i) => [name.replaceAll("_", " "), probabilities[i]]);
  const ranked = named.sort((a, b) => b[1] - a[1]);
  const rows = ranked.slice(0, SHOWN).map(([name, value]) => {
    const row = document.createElement("div");
    row.className = "attribute";
    const text = (content) => Object.assign(document.createElement("span"), { textContent: content });
    row.append(text(name), Object.assign(document.createElement("meter"), { value, ariaLabel: name }));
    row.append(text(`${Math.round(100 * value)} %`));
    return row;
  });
  element("attributes").replaceChildren(...rows);
}

/** Gives the visitor a file. */
function save(name, content) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(new Blob([content])) });
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60e3); // when it has been written
}

start();
