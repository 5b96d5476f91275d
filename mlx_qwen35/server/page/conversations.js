// Conversations, as this browser keeps them, and as files. A chat is {id, title, updated}; its turns are
// {role: "user", text, media} and {role: "assistant", text, reasoning, ...}, each kept by its place.

import { firstFrame, partOf } from "./media.js";

const FORMAT = "mlx_qwen35 conversations";
let opened = null;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("mlx_qwen35", 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("chats", { keyPath: "id" });
      request.result.createObjectStore("turns");
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

// Does something with the stores, all of it or nothing; what `work` returns may be a request.
async function transaction(mode, work) {
  const started = (await database()).transaction(["chats", "turns"], mode);
  let found, fault;
  const refuse = (error) => {
    fault = error;
    started.abort();
  };
  try {
    found = work(started.objectStore("chats"), started.objectStore("turns"), refuse);
  } catch (error) {
    started.abort();
    throw error;
  }
  return new Promise((resolve, reject) => {
    started.oncomplete = () => resolve(found?.result);
    started.onabort = () => reject(fault ?? started.error);
  });
}

const turnsOf = (id, from = 0) => IDBKeyRange.bound([id, from], [id, Infinity]);

export function newChat() {
  // Not every page has crypto.randomUUID: it needs https, or this machine.
  return { id: `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`, title: "", updated: 0 };
}

export async function listChats() { // the newest first
  const chats = await transaction("readonly", (chats) => chats.getAll());
  return chats.sort((one, other) => other.updated - one.updated);
}

export const findChat = (id) => transaction("readonly", (chats) => chats.get(id));
export const loadTurns = (id) => transaction("readonly", (_, turns) => turns.getAll(turnsOf(id)));

// Keeps one turn, in place of what was there and after it, or of what was there only; `chat.kept` is when this page did so last.
export function keepTurn(chat, at, turn, isLast) {
  const { id, title, updated } = chat;
  const kept = transaction("readwrite", (chats, turns, refuse) => {
    chats.get(id).onsuccess = ({ target: { result } }) => {
      if (result?.updated !== chat.kept) return refuse(new Error("another tab has changed it. Open it anew to go on from there."));
      try {
        chats.put({ id, title, updated });
        if (isLast) turns.delete(turnsOf(id, at));
        turns.put(turn, [id, at]);
      } catch (error) {
        refuse(error);
      }
    };
  });
  return kept.then(() => {
    chat.kept = updated;
  });
}

export function removeChat(id) {
  return transaction("readwrite", (chats, turns) => {
    chats.delete(id);
    turns.delete(turnsOf(id));
  });
}

export function titleOf({ text, media }) { // by the first message
  const line = text.trim().split("\n", 1)[0];
  return line.length > 80 ? `${line.slice(0, 79)}…` : line || media[0]?.name || "Chat";
}

export function messagesOf(turns) { // as OpenAI's protocol has them
  const messages = [];
  for (const { role, text, media, reasoning } of turns) {
    if (role === "user") {
      const parts = media.map(partOf);
      messages.push({ role, content: parts.length ? [...parts, ...(text ? [{ type: "text", text }] : [])] : text });
    } else if (text || reasoning) {
      // Even if there was none: without the field, reasoning is looked for in the text.
      messages.push({ role, content: text, reasoning_content: reasoning });
    }
  }
  return messages;
}

export async function exported(chats) {
  const conversations = [];
  for (const { id, title, updated } of chats) conversations.push({ title, updated, messages: messagesOf(await loadTurns(id)) });
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
}

// Keeps the conversations of a file, all of them or none, and returns their chats; an Error says what is wrong.
export async function importChats(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch (error) {
    throw new Error(`expected JSON (${error.message})`);
  }
  if (file?.format !== FORMAT || !Array.isArray(file.conversations)) throw new Error(`expected a file of ${FORMAT}`);
  if (file.version !== 1) throw new Error(`version: expected 1, found ${JSON.stringify(file.version)}`);
  const found = [];
  for (const [at, one] of file.conversations.entries()) {
    const place = `conversations[${at}]`;
    if (!Array.isArray(one?.messages)) throw new Error(`${place}.messages: expected a list`);
    const turns = [];
    for (const [number, message] of one.messages.entries()) turns.push(await turnOf(message, `${place}.messages[${number}]`));
    const title = typeof one.title === "string" && one.title ? one.title : turns.length && titleOf({ media: [], ...turns[0] });
    if (turns.length) found.push({ chat: { ...newChat(), title, updated: new Date(Number(one.updated)).getTime() || Date.now() }, turns });
  }
  await transaction("readwrite", (chats, kept) => {
    for (const { chat, turns } of found) {
      chats.put(chat);
      turns.forEach((turn, at) => kept.put(turn, [chat.id, at]));
    }
  });
  return found.map(({ chat }) => chat);
}

async function turnOf(message, place) {
  const { role, content, reasoning_content: reasoning = "" } = message ?? {};
  if (role === "assistant") {
    if (typeof content !== "string" || typeof reasoning !== "string") throw new Error(`${place}: expected texts`);
    return { role, text: content, reasoning };
  }
  if (role !== "user") throw new Error(`${place}.role: expected user or assistant, found ${JSON.stringify(role)}`);
  const turn = { role, text: "", media: [] }, parts = typeof content === "string" ? [{ type: "text", text: content }] : content;
  for (const part of Array.isArray(parts) ? parts : [null]) {
    const kind = /^(image|video)_url$/.exec(part?.type)?.[1], url = part?.[part?.type]?.url;
    if (part?.type === "text" && typeof part.text === "string") turn.text += part.text;
    else if (kind && typeof url === "string" && (url.startsWith(`data:${kind}/`) || (kind === "video" && url.startsWith("data:image/")))) {
      turn.media.push({ kind, url, name: kind, ...(kind === "video" && { poster: await firstFrame(url) }) });
    } else throw new Error(`${place}.content: expected texts, and pictures and videos as data: URLs`);
  }
  return turn;
}
