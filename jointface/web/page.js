// What the visitor sees and does.
import { drawOverlay } from "./overlay.js";
import { FaceReader } from "./reader.js";
import { ShapeView } from "./shape.js";

const EXAMPLES = 4; // drawn people
const MOST_PIXELS = 12e6; // of a photo; larger ones are reduced
const SHOWN = 12; // attributes

const element = (id) => document.getElementById(id);
const say = (text) => (element("message").textContent = text);

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
  file.addEventListener("change", () => file.files.length && readFile(file.files[0]));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) readFile(event.dataTransfer.files[0]);
  });
  document.querySelectorAll("#examples button").forEach((button) => (button.disabled = false));
  say("Ready.");
}

function addExample(number) {
  const button = document.createElement("button");
  const image = Object.assign(new Image(), { src: `examples/${number}.jpg`, alt: `Drawn photo ${number + 1}` });
  button.append(image);
  button.disabled = true;
  button.addEventListener("click", () => readFile(image));
  element("examples").append(button);
}

/** Reads a photo: a file, or an image of the page. */
async function readFile(source) {
  if (busy) return;
  busy = true;
  element("results").hidden = true;
  say("Reading …");
  try {
    const picture = await openPicture(source);
    await new Promise((shown) => setTimeout(shown)); // the message first
    const faces = await reader.read(picture);
    drawOverlay(element("overlay"), picture, faces, reader.facts.triangles);
    if (faces.length) showFaces(faces, picture);
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
async function openPicture(source) {
  let picture;
  try {
    picture = await createImageBitmap(source);
  } catch {
    throw new UserError(`${source.name} is not a picture that this browser can read. Choose a JPEG, PNG or WebP file.`);
  }
  const scale = Math.sqrt(MOST_PIXELS / (picture.width * picture.height));
  if (scale >= 1) return picture;
  const size = { resizeWidth: Math.round(scale * picture.width), resizeHeight: Math.round(scale * picture.height) };
  const reduced = await createImageBitmap(picture, { ...size, resizeQuality: "high" });
  picture.close();
  return reduced;
}

function showFaces(faces, picture) {
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
  };
  element("faces").replaceChildren(...(faces.length > 1 ? buttons : []));
  element("results").hidden = false;
  view ??= new ShapeView(element("shape"));
  choose(0);
}

function showAttributes(probabilities) {
  const ranked = reader.facts.attributes.map((name, i) => [name, probabilities[i]]).sort((a, b) => b[1] - a[1]);
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

start();
