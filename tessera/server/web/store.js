// Keeps conversations in this browser (IndexedDB), images included, apart for each path a server is
// shown under. A browser that keeps nothing, as in some private windows, is no fault: then all of it lasts as long
// as the tab. Nothing here leaves the browser, and the API key is never among it.

const NAME = `tessera ${location.pathname}`;
const SHELVES = ["conversations"];

let opening;
const memory = new Map(SHELVES.map((shelf) => [shelf, new Map()])); // where the browser keeps nothing

function opened() {
  opening ??= new Promise((resolve) => {
    let request;
    try {
      request = indexedDB.open(NAME, 1);
    } catch {
      resolve(null);
      return;
    }
    request.onupgradeneeded = () => SHELVES.forEach((shelf) => request.result.createObjectStore(shelf, { keyPath: "id" }));
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(null);
    request.onblocked = () => resolve(null);
  });
  return opening;
}

async function use(shelf, mode, act, instead) {
  const database = await opened();
  if (!database) return instead(memory.get(shelf));
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(shelf, mode);
    const request = act(transaction.objectStore(shelf));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

/** Throws when the browser's space is used up. */
export const keep = (shelf, entry) =>
  use(shelf, "readwrite", (store) => store.put(entry), (map) => map.set(entry.id, entry));

export const fetchKept = (shelf, id) => use(shelf, "readonly", (store) => store.get(id), (map) => map.get(id));

export const allKept = (shelf) => use(shelf, "readonly", (store) => store.getAll(), (map) => [...map.values()]);

export const forget = (shelf, id) => use(shelf, "readwrite", (store) => store.delete(id), (map) => map.delete(id));

/** Also on pages that are not secure, where browsers have no randomUUID. */
export const newId = () => `${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 10)}`;
