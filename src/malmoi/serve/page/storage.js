// What stays in this browser, and nowhere else: conversations in IndexedDB, preferences in localStorage, an API key for
// as long as the tab lives.

const PREFERENCES = "malmoi.preferences";
const STORE = "conversations";

let opened = null;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const asked = indexedDB.open("malmoi", 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore(STORE, { keyPath: "id" });
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
  return opened;
}

async function transact(mode, act) {
  const store = (await database()).transaction(STORE, mode).objectStore(STORE);
  return new Promise((resolve, reject) => {
    const asked = act(store);
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
}

/** All conversations, the latest first; none where the browser keeps nothing (a private window). */
export async function allConversations() {
  try {
    const found = await transact("readonly", (store) => store.getAll());
    return found.sort((one, other) => other.updated - one.updated);
  } catch {
    return [];
  }
}

export async function keepConversation(conversation) {
  try {
    await transact("readwrite", (store) => store.put(conversation));
  } catch {
    // A browser without storage: the conversation lives as long as the page.
  }
}

export async function dropConversation(id) {
  try {
    await transact("readwrite", (store) => store.delete(id));
  } catch {
    // as above
  }
}

export function preferences() {
  try {
    return JSON.parse(localStorage.getItem(PREFERENCES)) ?? {};
  } catch {
    return {};
  }
}

export function prefer(changes) {
  try {
    localStorage.setItem(PREFERENCES, JSON.stringify({ ...preferences(), ...changes }));
  } catch {
    // as above
  }
}

export const apiKey = () => sessionStorage.getItem("malmoi.key") ?? "";
export const keepApiKey = (key) => sessionStorage.setItem("malmoi.key", key);
