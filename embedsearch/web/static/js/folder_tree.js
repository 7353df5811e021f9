// @ts-check
// Folders as a tree; in: folders with the images directly in them, out: nodes with those below, too.

/** @typedef {{name: string, root: string, folder: string, all: number, children: Map<string, Node>}} Node */

/** @param {{root: string, folder: string, images: number}[]} folders @returns {Node[]} */
export function treeOf(folders) {
  /** @type {Map<string, Node>} */
  const roots = new Map();
  for (const { root, folder, images: count } of folders) {
    let node = roots.get(root) ?? { name: root, root, folder: "", all: 0, children: new Map() };
    roots.set(root, node);
    node.all += count;
    const parts = folder ? folder.split("/") : [];
    parts.forEach((part, depth) => {
      const below = node.children.get(part) ?? {
        name: part,
        root,
        folder: parts.slice(0, depth + 1).join("/"),
        all: 0,
        children: new Map(),
      };
      node.children.set(part, below);
      below.all += count;
      node = below;
    });
  }
  return [...roots.values()];
}

/** @param {Node} node @returns {Node[]} By name. */
export const childrenOf = (node) => [...node.children.values()].sort((a, b) => a.name.localeCompare(b.name));

/** @param {Node} node @param {number} [depth] @returns {{node: Node, depth: number}[]} It and all below, in the order in which they are listed. */
export const linesOf = (node, depth = 0) => [
  { node, depth },
  ...childrenOf(node).flatMap((child) => linesOf(child, depth + 1)),
];
