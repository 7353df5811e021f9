// @ts-check
// Uploaded photos: made smaller before they are sent, and kept in this browser alone,
// so that a reload and the way back find them.

/** @typedef {{id: number, blob: Blob, name: string, width: number, height: number, url: string}} Upload */

const SIDE = 1024; // pixels: networks see at most a third of that
const SMALL_BYTES = 1e6; // sent as it is
const KEPT = 20;
/** @type {Map<number, Upload>} */
const uploads = new Map();

/** @returns {Promise<IDBDatabase | null>} */
function database() {
  return new Promise((resolve) => {
    try {
      const request = indexedDB.open("embedsearch", 1);
      request.onupgradeneeded = () => request.result.createObjectStore("uploads", { keyPath: "id" });
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => resolve(null);
      request.onblocked = () => resolve(null);
    } catch {
      resolve(null); // storage is switched off
    }
  });
}

/**
 * Keep a file and return what is searched with. A browser that cannot decode it sends it as it is.
 * @param {File} file @returns {Promise<Upload>}
 */
export async function keepUpload(file) {
  const id = Date.now() % 1e12;
  /** @type {Upload} */
  const upload = { id, blob: file, name: file.name || "the pasted image", width: 0, height: 0, url: "" };
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => null);
  if (bitmap) {
    [upload.width, upload.height] = [bitmap.width, bitmap.height];
    if (file.size > SMALL_BYTES) {
      const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [
        Math.max(1, Math.round(bitmap.width * scale)),
        Math.max(1, Math.round(bitmap.height * scale)),
      ];
      const drawing = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
      drawing.fillStyle = "#fff"; // what is transparent, as the server sees it
      drawing.fillRect(0, 0, canvas.width, canvas.height);
      drawing.imageSmoothingQuality = "high";
      drawing.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
      const smaller = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
      if (smaller) Object.assign(upload, { blob: smaller, width: canvas.width, height: canvas.height });
    }
    bitmap.close();
  }
  upload.url = URL.createObjectURL(upload.blob);
  uploads.set(id, upload);
  await write(upload);
  return upload;
}

/** @param {Upload} upload */
async function write({ id, blob, name, width, height }) {
  const opened = await database();
  if (!opened) return;
  try {
    const store = opened.transaction("uploads", "readwrite").objectStore("uploads");
    store.put({ id, blob, name, width, height });
    const keys = store.getAllKeys();
    keys.onsuccess = () => {
      for (const old of keys.result.slice(0, -KEPT)) store.delete(old);
    };
    await new Promise((resolve) => {
      store.transaction.oncomplete = store.transaction.onabort = resolve;
    });
  } catch {
    /* no space: this page's memory has it */
  } finally {
    opened.close();
  }
}

/** @param {number} id @returns {Promise<Upload | null>} */
export async function findUpload(id) {
  const known = uploads.get(id);
  if (known) return known;
  const opened = await database();
  if (!opened) return null;
  try {
    const request = opened.transaction("uploads").objectStore("uploads").get(id);
    const found = await new Promise((resolve) => {
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => resolve(null);
    });
    if (!found) return null;
    const upload = { ...found, url: URL.createObjectURL(found.blob) };
    uploads.set(id, upload);
    return upload;
  } catch {
    return null;
  } finally {
    opened.close();
  }
}
