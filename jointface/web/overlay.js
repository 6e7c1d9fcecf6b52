// The photo with the shape, the landmarks and the number of each face.

// iBUG's 68 landmarks as lines: first and last point, and whether the line is closed.
const LINES = [
  [0, 16], [17, 21], [22, 26], [27, 30], [31, 35], [36, 41, true], [42, 47, true], [48, 59, true], [60, 67, true],
];

/** Draws it into a canvas that is as large as the picture. */
export function drawOverlay(canvas, picture, faces, triangles) {
  [canvas.width, canvas.height] = [picture.width, picture.height];
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  context.translate(0.5, 0.5); // pixel centres are at integers
  for (const [place, face] of faces.entries()) {
    context.lineWidth = Math.max(0.5, face.size / 500);
    context.strokeStyle = "rgb(190 204 230 / 60%)";
    context.stroke(wires(face.vertices, triangles));
    context.lineWidth = Math.max(1, face.size / 120);
    context.strokeStyle = "rgb(255 190 40)";
    context.stroke(lines(face.landmarks));
    if (faces.length > 1) drawNumber(context, place + 1, face);
  }
}

/** The edges of the triangles that face the viewer. */
function wires(vertices, triangles) {
  const path = new Path2D();
  for (let i = 0; i < triangles.length; i += 3) {
    const [a, b, c] = [0, 1, 2].map((corner) => vertices.subarray(3 * triangles[i + corner]));
    const turn = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
    if (turn > 0) continue; // y is down, so those in front turn the other way
    path.moveTo(a[0], a[1]);
    path.lineTo(b[0], b[1]);
    path.lineTo(c[0], c[1]);
  }
  return path;
}

function lines(landmarks) {
  const path = new Path2D();
  for (const [first, last, closed] of LINES) {
    const line = new Path2D();
    for (let i = first; i <= last; i++) line.lineTo(landmarks[3 * i], landmarks[3 * i + 1]);
    if (closed) line.closePath();
    path.addPath(line);
  }
  return path;
}

function drawNumber(context, number, { x, y, size }) {
  context.font = `bold ${Math.max(14, size / 4)}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.lineWidth = Math.max(3, size / 40);
  context.strokeStyle = "black";
  context.fillStyle = "white";
  context.strokeText(number, x, y - 0.75 * size);
  context.fillText(number, x, y - 0.75 * size);
}
