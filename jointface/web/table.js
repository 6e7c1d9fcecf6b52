// The table of the faces in a photo, with the columns of jointface/inference/face_tables.py.

/** The CSV file. attributes: their names. picture: what was read; the table's pixels are its. name: of the photo. */
export function toCsv(faces, attributes, picture, name) {
  const rows = faces.map((face, place) => ({
    photo: name, width_px: picture.width, height_px: picture.height, face: place + 1, score: rounded(face.score, 5),
    box_x_px: rounded(face.x, 3), box_y_px: rounded(face.y, 3), box_size_px: rounded(face.size, 3),
    ...pose(face.rotation),
    ...Object.fromEntries(attributes.map((attribute, i) => [`${attribute}_prob`, rounded(face.probabilities[i], 5)])),
    ...landmarks(face.landmarks),
  }));
  return [Object.keys(rows[0]), ...rows.map(Object.values)].map((row) => `${row.map(quoted).join(",")}\n`).join("");
}

/** Angles in degrees, as `rotation_to_euler` of jointface/geometry/camera.py, and the rotation, row by row. */
function pose(rotation) {
  const [r00, r01, r02, , , r12, , , r22] = rotation;
  const degrees = (radians) => rounded((radians * 180) / Math.PI, 3);
  return {
    pitch_deg: degrees(Math.atan2(r12, r22)),
    yaw_deg: degrees(Math.asin(Math.min(Math.max(-r02, -1), 1))),
    roll_deg: degrees(Math.atan2(r01, r00)),
    ...Object.fromEntries([...rotation].map((value, i) => [`rotation_${Math.floor(i / 3)}${i % 3}`, rounded(value, 6)])),
  };
}

function landmarks(points) {
  const name = (i) => `landmark_${String(Math.floor(i / 3)).padStart(2, "0")}_${"xyz"[i % 3]}_px`;
  return Object.fromEntries([...points].map((value, i) => [name(i), rounded(value, 3)]));
}

function rounded(value, digits) {
  return Number(value.toFixed(digits));
}

function quoted(value) {
  return /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
}
