// Square face boxes {x, y, size} in pixels whose centres are at integers, as in jointface/detection/boxes.py.

export const largestFirst = (boxes) => [...boxes].sort((a, b) => b.size - a.size);
export const surestFirst = (boxes) => [...boxes].sort((a, b) => b.score - a.score);

/** Of several boxes of one face the first. */
export function distinct(boxes) {
  const kept = [];
  for (const box of boxes) {
    if (!kept.some((other) => isSameFace(box, other))) kept.push(box);
  }
  return kept;
}

function isSameFace(a, b) {
  const along = (axis) => {
    const end = Math.min(a[axis] + a.size / 2, b[axis] + b.size / 2);
    return Math.max(0, end - Math.max(a[axis] - a.size / 2, b[axis] - b.size / 2));
  };
  const common = along("x") * along("y");
  const union = a.size ** 2 + b.size ** 2 - common;
  return common > 0.4 * union || common > 0.8 * Math.min(a.size, b.size) ** 2;
}

/** The box of points, [x, y, z, x, y, z, ...]: its centre, and the mean of its width and height. */
export function boxOf(points) {
  const [left, right] = limits(points, 0);
  const [top, bottom] = limits(points, 1);
  return { x: (left + right) / 2, y: (top + bottom) / 2, size: (right - left + bottom - top) / 2 };
}

/** The lowest and the highest value of points along an axis: 0, 1 or 2. */
export function limits(points, axis) {
  let [low, high] = [Infinity, -Infinity];
  for (let i = axis; i < points.length; i += 3) {
    low = Math.min(low, points[i]);
    high = Math.max(high, points[i]);
  }
  return [low, high];
}
