// @ts-check
// Conditions of filters, as SQL and as words. A filter is a list of them, all of which hold.

import { baseName, moment, number } from "./words.js";

const SQL =
  /^\s*(?:not\s+)?(?:"((?:[^"]|"")+)"|([a-z_]\w*))\s*(?:(?:<=|>=|!=|<>|=|<|>)\s*\S|(?:not\s+)?(?:in\s*\(|between\s+\S+\s+and\s|i?like\s+'|glob\s+')|is\s+(?:not\s+)?(?:null|true|false)\b)/i;

/** @param {string} name */
export const quoted = (name) => (/^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`);
/** @param {any} value */
const literal = (value) => (typeof value === "string" ? `'${value.replaceAll("'", "''")}'` : String(value));

/** @param {string} column @param {any[]} values */
export const oneOf = (column, values) =>
  values.length === 1
    ? `${quoted(column)} = ${literal(values[0])}`
    : `${quoted(column)} in (${values.map(literal).join(", ")})`;

/** @param {string} column @param {any} value A list's element. */
export const holds = (column, value) => `list_contains(${quoted(column)}, ${literal(value)})`;

/** @param {string} column @param {string} low @param {string} high @returns {string} Empty without any bound. */
export function range(column, low, high) {
  if (low && high) return `${quoted(column)} between ${low} and ${high}`;
  return low ? `${quoted(column)} >= ${low}` : high ? `${quoted(column)} <= ${high}` : "";
}

/** @param {string} column @param {string} first @param {string} last Days, both included. */
export function days(column, first, last) {
  const after = last && new Date(Date.parse(`${last}T00:00:00Z`) + 864e5).toISOString().slice(0, 10);
  const parts = [first && `${quoted(column)} >= '${first}'`, after && `${quoted(column)} < '${after}'`];
  return parts.filter(Boolean).join(" and ");
}

/** @param {string} root @param {string} folder */
export const inFolder = (root, folder) =>
  `folder = ${literal(root)}${folder ? ` and starts_with(path, ${literal(`${folder}/`)})` : ""}`;

/** @param {string[]} where */
export const joined = (where) => (where.length > 1 ? where.map((one) => `(${one})`).join(" and ") : (where[0] ?? ""));

/** @param {string} condition @returns {string} The column that it begins with. */
export function columnOf(condition) {
  const list = /^list_contains\((?:"((?:[^"]|"")+)"|(\w+)),/.exec(condition);
  const found = list ?? SQL.exec(condition);
  return found ? (found[1]?.replaceAll('""', '"') ?? found[2]) : "";
}

/** @param {string} text @param {Record<string, string>} columns @returns {boolean} Whether a text is meant as SQL. */
export function isCondition(text, columns) {
  const column = columnOf(text).toLowerCase();
  return Object.keys(columns).some((name) => name.toLowerCase() === column);
}

/** @param {string} condition @returns {string} It in words, as far as this page made it. */
export function label(condition) {
  const column = columnOf(condition);
  const name = column === "taken_at" ? "Date" : column.charAt(0).toUpperCase() + column.slice(1);
  const folder = /^folder = '((?:[^']|'')*)'(?: and starts_with\(path, '((?:[^']|'')*)\/'\))?$/.exec(condition);
  if (folder) return `Folder: ${baseName((folder[2] ?? folder[1]).replaceAll("''", "'"))}`;
  const rest = condition.slice(
    condition.indexOf(condition.startsWith('"') ? '" ' : " ") + (condition.startsWith('"') ? 2 : 1),
  );
  const day =
    /^>= '(\d{4}-\d\d-\d\d)'(?: and .* < '(\d{4}-\d\d-\d\d)')?$/.exec(rest) ?? /^< '()(\d{4}-\d\d-\d\d)'$/.exec(rest);
  if (day) {
    const last = day[2] && new Date(Date.parse(`${day[2]}T00:00:00Z`) - 864e5).toISOString().slice(0, 10);
    if (!last) return `${name}: from ${moment(day[1])}`;
    return day[1] === last
      ? `${name}: ${moment(last)}`
      : `${name}: ${day[1] ? `${moment(day[1])} – ` : "until "}${moment(last)}`;
  }
  const equal = /^= (?:'((?:[^']|'')*)'|(\S+))$/.exec(rest);
  if (equal) return `${name}: ${equal[1]?.replaceAll("''", "'") ?? equal[2]}`;
  const between = /^between (\S+) and (\S+)$/.exec(rest);
  if (between) return `${name} ${plain(between[1])} – ${plain(between[2])}`;
  const bound = /^([<>]=?) (-?[\d.]+)$/.exec(rest);
  if (bound) return `${name} ${bound[1].replace(">=", "≥").replace("<=", "≤")} ${plain(bound[2])}`;
  const some = /^in \((.*)\)$/.exec(rest);
  if (some) return `${name}: ${some[1].replaceAll("''", "’").replaceAll("'", "")}`;
  const held = /^list_contains\([^,]+, '?(.*?)'?\)$/.exec(condition);
  return held ? `${name}: ${held[1].replaceAll("''", "'")}` : condition;
}

/** @param {string} text */
const plain = (text) => (/^-?\d+$/.test(text) ? number(Number(text)) : text);
