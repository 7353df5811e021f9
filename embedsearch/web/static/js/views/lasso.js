// @ts-check
// Which points a line that was drawn around some of them holds.

/** @param {number[]} point @param {number[][]} line @returns {boolean} By the even-odd rule. */
export function isInside([x, y], line) {
  let isIn = false;
  for (let i = 0, j = line.length - 1; i < line.length; j = i++) {
    const [[x1, y1], [x2, y2]] = [line[i], line[j]];
    if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) isIn = !isIn;
  }
  return isIn;
}
