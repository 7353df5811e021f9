// @ts-check
// What people read: errors, numbers, dates, names. One place turns the code of an error into words.

/** @typedef {import("./api.js").Problem} Problem */

/** @type {Record<string, string>} */
const CODES = {
  offline: "No connection to the server. Reconnecting …",
  busy: "The server is busy. Try again in a moment.",
  no_such_image: "This image is no longer in the store. It may have been moved or indexed again.",
  file_gone: "File missing or unreadable",
  no_file: "The store holds only the vector of this image, not where its file is.",
  token_needed: "Open the address with the token that the server printed.",
  other_site: "The server does not answer to pages of other sites.",
  unknown_host: "The server does not answer at this address. Start it with --allow-host and this name.",
  too_slow: "The upload took too long. Try a smaller photo.",
  upload_gone: "Uploaded photos are kept only in the browser that sent them. Choose it again.",
  no_network: "This store's vectors come from elsewhere, so new photos cannot be searched. Click an image below.",
  failed: "The server could not answer. Its log says why.",
};

/** @param {any} problem @returns {string} */
export function explain(problem) {
  const { code = "", message = String(problem) } = problem ?? {};
  if (code === "too_large")
    return /\d+ MB/.test(message) ? `This file is larger than ${/\d+ MB/.exec(message)?.[0]}.` : message;
  if (code === "unreadable_image") return unreadable(problem);
  if (code === "bad_filter") return sentence(plainly(message));
  return CODES[code] ?? sentence(message);
}

/** @param {string} message Of the parser of conditions. @returns {string} In one sentence. */
function plainly(message) {
  let words = message.replace(/;? ?columns: .*$/s, "").replace(/,? ?character \d+ \(at .*\)$/s, "");
  words = words.replace(/^syntax error at or near "\)"$/, "it ends too early");
  words = words
    .replace(/^syntax error at or near /, "something is wrong at ")
    .replace(/^syntax error at end of input/, "it ends too early");
  for (const [pattern, plain] of TYPES) words = words.replaceAll(pattern, plain);
  return words.replace(/ ?[-–] an explicit cast is required/, "");
}

/** @type {[RegExp, string][]} */
const TYPES = [
  [/\bTIMESTAMP(_\w+)?\b/g, "a date ('2024-05-01')"],
  [/\b(INTEGER_LITERAL|U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|DOUBLE|FLOAT|DECIMAL(\([^)]*\))?)\b/g, "a number"],
  [/\b(STRING_LITERAL|VARCHAR)\b/g, "a text ('…')"],
  [/\bBOOLEAN\b/g, "true or false"],
];

/** @param {any} problem */
function unreadable({ name = "", message = "" }) {
  name ||= "This file";
  const looksLike = /looks like ([^)]*)\)/.exec(message)?.[1];
  if (looksLike) return `${name} is ${looksLike}, not an image.`;
  return `${name} cannot be read as an image.`;
}

/** @param {string} text */
function sentence(text) {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(first) ? first : `${first}.`;
}

/** @param {number} count */
export const number = (count) => count.toLocaleString("en");

/** @param {number} count @param {string} [one] @param {string} [many] */
export const images = (count, one = "image", many = "images") => `${number(count)} ${count === 1 ? one : many}`;

/** @param {number} bytes Units of 1,000, as everywhere in this tool. */
export function bytes(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let power = 0;
  while (bytes >= 999.5 && power < 4) [bytes, power] = [bytes / 1000, power + 1];
  return `${power && bytes < 9.95 ? bytes.toFixed(1) : bytes.toFixed(0)} ${units[power]}`;
}

/** @param {string} time ISO, without a zone */
export function moment(time) {
  const at = new Date(`${time.slice(0, 19)}Z`);
  if (Number.isNaN(at.getTime())) return time;
  const day = { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" };
  const date = at.toLocaleDateString("en-GB", /** @type {any} */ (day));
  return time.length > 10 ? `${date}, ${time.slice(11, 16)}` : date;
}

/** @param {string} key @returns {string} The last part of a path. */
export const baseName = (key) => key.slice(key.lastIndexOf("/") + 1) || key;

/** @param {string} key @returns {string} A name as people say it. */
export const spoken = (key) =>
  baseName(key)
    .replace(/\.[a-z0-9]{2,5}$/i, "")
    .replace(/_+/g, " ")
    .trim() || key;

/** @param {number | null | undefined} score */
export const two = (score) => (score === null || score === undefined ? "" : score.toFixed(2));

/** @param {any} value @returns {string} */
export function shown(value) {
  if (Array.isArray(value)) return value.map(shown).join(", ");
  if (value !== null && typeof value === "object") return JSON.stringify(value);
  if (typeof value === "string" && /^\d{4}-\d\d-\d\d(T|$)/.test(value)) return moment(value);
  return String(value);
}
