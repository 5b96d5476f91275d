// The page: a conversation, what is to be sent next, and the settings.

import * as conversations from "./conversations.js";
import { copyButton, make } from "./elements.js";
import { Markdown } from "./markdown.js";
import { mediaOf, player, thumbnail } from "./media.js";
import { access, events, modelName } from "./server.js";

const KEEP_EVERY = 1000; // milliseconds between two times that an unfinished answer is kept
const SHORTEST_WRITING = 10; // milliseconds; an answer that came in one piece tells no speed
const SETTINGS = ["system", "temperature", "max_tokens", "top_p", "top_k", "seed", "thinking", "key"];
const NUMBERS = ["temperature", "max_tokens", "top_p", "top_k", "seed"];

const ui = {};
for (const element of document.querySelectorAll("[id]")) ui[element.id] = element;
const scroller = document.querySelector("main");
let chat = conversations.newChat();
let turns = []; // see conversations.js
let nodes = []; // the article of each turn
let media = []; // for the next message
let adding = 0; // files that are still being read
let editing = null; // the message that is being changed: {at, text, media}, with what else was to be sent
let running = null; // aborts the answer that is being written
let atEnd = true; // the conversation is scrolled down, and is to stay so

const session = { // A browser may forbid it; what is in it then lasts as long as the page.
  get(name) {
    try { return sessionStorage.getItem(name) ?? ""; } catch { return ""; }
  },
  set(name, value) {
    try { sessionStorage.setItem(name, value); } catch { /* as above */ }
  },
};

// What is asked

function showModel(name) {
  if (document.title !== name) ui.model.textContent = document.title = ui.model.title = name;
}

async function loadModel() {
  try {
    showModel(await modelName());
  } catch (error) {
    notify(error.message);
  }
}

function request() {
  const system = ui.system.value.trim(), messages = conversations.messagesOf(turns);
  if (system) messages.unshift({ role: "system", content: system });
  const body = { messages, stream: true, stream_options: { include_usage: true } };
  for (const name of NUMBERS) if (ui[name].value) body[name] = Number(ui[name].value);
  const thinking = ui.thinking.value;
  if (thinking === "on" || thinking === "off") body.enable_thinking = thinking === "on";
  else if (thinking) body.reasoning_effort = thinking;
  return body;
}

// The conversation

function addTurn(turn) {
  const node = make("article", { className: `turn ${turn.role === "user" ? "user" : "answer"}` });
  node.append(make("h2", { className: "hidden", textContent: turn.role === "user" ? "You" : "Answer" }));
  turns.push(turn);
  nodes.push(node);
  ui.log.append(node);
  if (turn.role === "user") {
    if (turn.media.length) node.append(make("div", { className: "images" }, ...turn.media.map(player)));
    if (turn.text) node.append(make("p", { textContent: turn.text }));
    // The last of all where the page was left before an answer began.
    const foot = make("div", { className: "foot" }, button("Edit", () => edit(node)), button("Answer", answerLast, "last"));
    if (navigator.clipboard && turn.text) foot.prepend(copyButton(() => turn.text));
    node.append(foot);
  }
  return node;
}

function dropTurns(from) {
  turns.length = from;
  for (const node of nodes.splice(from)) node.remove();
}

async function keep(at, own = { chat, turns }) { // and what was behind it is no more
  own.chat.title ||= conversations.titleOf(own.turns[0]);
  own.chat.updated = Date.now();
  if (own.chat === chat) session.set("chat", chat.id);
  const turn = own.turns[at], isLast = at === own.turns.length - 1;
  const keepIt = () => conversations.keepTurn(own.chat, at, turn, isLast);
  // A chat with a gap would be another one: after a turn that could not be kept none is, so each waits for the one before.
  own.chat.keeping = Promise.resolve(own.chat.keeping).then(() => own.chat.isLost || reportingFaults(keepIt, () => (own.chat.isLost = true)));
  await own.chat.keeping;
}

async function reportingFaults(work, onFault = () => {}) {
  try {
    return await work();
  } catch (error) {
    onFault();
    const full = error?.name === "QuotaExceededError" && "it has no room for more. Delete some chats, or export them first.";
    notify(`This browser cannot keep the chat: ${full || (error?.message ?? "it does not say why.")}`);
  }
}

function button(textContent, onclick, className = "") {
  return make("button", { type: "button", textContent, onclick, className });
}

const seconds = (time) => `${(time / 1000).toFixed(time < 9950 ? 2 : 1)} s`;

class Answer { // an assistant's turn on the page
  constructor(turn) {
    this.turn = turn;
    this.node = addTurn(turn);
    this.summary = make("summary", { textContent: turn.thought ?? "Thinking…" });
    this.thoughts = make("div", { className: "thoughts" });
    this.details = make("details", { hidden: true }, this.summary, this.thoughts);
    this.text = make("div", { className: "text" });
    this.foot = make("div", { className: "foot" });
    this.markdown = new Markdown(this.text, scrollDown);
    this.node.append(this.details, this.text, this.foot);
    this.node.answer = this;
  }

  showThoughts() {
    const { reasoning } = this.turn, shown = this.thoughts.textContent.length;
    this.details.hidden = !reasoning;
    if (reasoning.length > shown) this.thoughts.append(reasoning.slice(shown));
  }

  finish() { // what stands around it once nothing more comes
    const { turn, foot, node } = this;
    for (const old of node.querySelectorAll(":scope > :is(.note, .error)")) old.remove();
    for (const className of ["note", "error"]) {
      if (turn[className]) foot.before(make("p", { className, textContent: turn[className] }));
    }
    foot.replaceChildren(
      button(turn.error ? "Try again" : "Regenerate", regenerate, "last"),
      button("Edit", () => edit(node)),
      make("span", { className: "stats", textContent: turn.stats ?? "" }),
    );
    if (navigator.clipboard && turn.text) foot.prepend(copyButton(() => turn.text));
    this.summary.textContent = turn.thought ?? "Thoughts";
    this.showThoughts();
    node.removeAttribute("aria-busy");
  }
}

async function answer() {
  const body = request(), turn = { role: "assistant", text: "", reasoning: "" }, at = turns.length, shown = new Answer(turn);
  const status = make("span", { textContent: "waiting for the server" }), bar = make("progress", { hidden: true });
  bar.setAttribute("aria-label", "Prompt read");
  const waiting = make("p", { className: "status" }, status, bar);
  shown.node.querySelector("h2").after(waiting);
  shown.details.open = true;
  shown.node.setAttribute("aria-busy", "true");

  const abort = (running = new AbortController()), own = { chat, turns }, started = performance.now();
  let first = 0, answered = 0, last = 0, kept = started, usage = null, reason = null, frame = 0;
  const draw = () => {
    frame = 0;
    shown.showThoughts();
    scrollDown();
  };
  const endThoughts = () => {
    answered = performance.now();
    shown.summary.textContent = turn.thought = `Thought for ${seconds(answered - first)}`;
  };
  update();
  atEnd = true;
  scrollDown();
  try {
    for await (const event of events(body, abort.signal)) {
      if (event.error) throw new Error(event.error.message);
      if (event.total) {
        status.textContent = `reading ${event.read} of ${event.total}`;
        Object.assign(bar, { hidden: false, max: event.total, value: event.read });
        continue;
      }
      usage = event.usage ?? usage;
      if (event.model) showModel(event.model);
      const choice = event.choices?.[0], delta = choice?.delta ?? {};
      reason = choice?.finish_reason ?? reason;
      const thought = delta.reasoning_content ?? "", written = delta.content ?? "";
      if (!thought && !written) continue;
      last = event.arrived; // not when it is shown, which takes a while
      first ||= last;
      waiting.hidden = true;
      turn.reasoning += thought;
      if (written && !turn.text && turn.reasoning) {
        endThoughts();
        shown.details.open = false;
      }
      turn.text += written;
      if (written) shown.markdown.show(turn.text, false);
      frame ||= requestAnimationFrame(draw);
      if (last - kept > KEEP_EVERY) {
        kept = last;
        keep(at, own);
      }
    }
    if (!reason) throw new Error("The connection ended before the answer did.");
    if (reason === "length") turn.note = "Cut off: the answer may have no more tokens.";
    else if (!turn.text) turn.note = "The answer is empty.";
  } catch (error) {
    if (abort.signal.aborted) turn.note = "Stopped.";
    else {
      abort.abort();
      turn.error = error.message;
    }
  }
  cancelAnimationFrame(frame);
  if (turn.reasoning && !answered) endThoughts();
  waiting.remove();
  turn.stats = figures(usage, first && first - started, last - first);
  keep(at, own);
  await shown.markdown.show(turn.text, true);
  shown.finish();
  scrollDown();
  if (running === abort) running = null;
  update();
}

function figures(usage, untilFirst, writing) {
  const out = [];
  if (usage?.completion_tokens > 1 && writing > SHORTEST_WRITING) {
    out.push(`${((usage.completion_tokens - 1) / (writing / 1000)).toFixed(1)} tokens/s`);
  }
  if (untilFirst) out.push(`first token after ${seconds(untilFirst)}`);
  if (usage) out.push(`${usage.prompt_tokens} prompt tokens, ${usage.prompt_tokens_details?.cached_tokens ?? 0} cached`);
  return out.join(" · ");
}

function send() {
  const text = ui.text.value.trim() ? ui.text.value : "";
  if (running || adding || (!text && !media.length)) return;
  notify("");
  if (editing && turns[editing.at].role === "assistant") {
    changeAnswer(editing.at, text);
    return;
  }
  const turn = { role: "user", text, media };
  if (editing) dropTurns(editing.at);
  addTurn(turn);
  keep(turns.length - 1);
  endEditing(editing ?? { text: "", media: [] });
  answer();
}

function regenerate() {
  if (editing) endEditing();
  dropTurns(turns.length - 1);
  answer();
}

function answerLast() {
  if (running) return;
  if (editing) endEditing();
  answer();
}

function edit(node) {
  if (running) return;
  if (editing) endEditing();
  editing = { at: nodes.indexOf(node), text: ui.text.value, media };
  const turn = turns[editing.at];
  ui.text.value = turn.text;
  media = turn.media ?? [];
  node.classList.add("edited");
  update();
  ui.text.focus();
}

function endEditing(before = editing) { // what was to be sent before comes back
  for (const node of nodes) node.classList.remove("edited");
  editing = null;
  ui.text.value = before.text;
  media = before.media;
  update();
}

async function changeAnswer(at, text) {
  const turn = turns[at], { answer } = nodes[at];
  for (const name of ["note", "error", "stats"]) delete turn[name];
  turn.text = text;
  endEditing();
  keep(at);
  await answer.markdown.show(text, true);
  answer.finish();
}

function startAgain() {
  running?.abort();
  running = null;
  if (editing) endEditing();
  [turns, nodes] = [[], []]; // The old ones may yet be kept.
  ui.log.replaceChildren();
  chat = conversations.newChat();
  session.set("chat", "");
  notify("");
  update();
}

async function openChat(id) {
  const [found, kept] = await Promise.all([conversations.findChat(id), conversations.loadTurns(id)]);
  if (!found) return;
  startAgain();
  chat = { ...found, kept: found.updated };
  session.set("chat", id);
  for (const turn of kept) {
    if (turn.role === "user") addTurn(turn);
    else {
      const shown = new Answer(turn);
      shown.markdown.showPlain(turn.text);
      shown.finish();
    }
  }
  atEnd = true;
  scrollDown();
  await renderAnswers();
}

async function renderAnswers() { // the last first
  for (const node of [...nodes].reverse()) {
    if (node.answer && node.isConnected) await node.answer.markdown.show(node.answer.turn.text, true);
    if (access.refused) return;
  }
}

// The list of chats

async function showChats() {
  fail("");
  const chats = await reportingFaults(conversations.listChats) ?? [];
  ui.export.disabled = !chats.length;
  ui.list.replaceChildren(...chats.map((one) => {
    const open = button(one.title, async () => {
      ui.chats.close();
      await reportingFaults(() => openChat(one.id));
    }, "open");
    open.append(make("small", { textContent: new Date(one.updated).toLocaleString() }));
    if (one.id === chat.id) open.setAttribute("aria-current", "true");
    const exports = button("Export", () => download([one]), ""), removes = button("Delete", () => remove(one), "");
    exports.ariaLabel = `Export ${one.title}`;
    removes.ariaLabel = `Delete ${one.title}`;
    return make("li", {}, open, exports, removes);
  }));
  if (!ui.chats.open) ui.chats.showModal();
}

async function remove(one) {
  if (!confirm(`Delete “${one.title}”?`)) return;
  if (one.id === chat.id) {
    chat.isLost = true; // An answer to it may still come.
    startAgain();
  }
  await reportingFaults(() => conversations.removeChat(one.id));
  await showChats();
}

async function download(chats) {
  const text = await conversations.exported(chats), url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  make("a", { href: url, download: chats.length === 1 ? "chat.json" : "chats.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

async function importFile(file) {
  try {
    await conversations.importChats(await file.text());
    await showChats();
  } catch (error) {
    fail(`${file.name} cannot be imported: ${error.message}`);
  }
}

function fail(text) {
  ui.failure.textContent = text;
  ui.failure.hidden = !text;
}

// What is sent next

let added = Promise.resolve(); // in the order in which they came, however long each takes

function addFiles(files) {
  if (editing && turns[editing.at].role === "assistant") return notify("An answer is text only.");
  notify("");
  adding++;
  update();
  return added = added.then(() => addOneByOne(files));
}

async function addOneByOne(files) {
  for (const file of files) {
    try {
      const one = await mediaOf(file);
      media = [...media, one];
    } catch (error) {
      notify(error.message);
    }
    update();
  }
  adding--;
  update();
}

function notify(text) {
  ui.notice.textContent = text;
  ui.notice.hidden = !text;
}

function update() {
  ui.send.hidden = Boolean(running);
  ui.stop.hidden = !running;
  ui.send.disabled = adding > 0;
  ui.editing.hidden = !editing;
  if (editing) {
    const isAnswer = turns[editing.at].role === "assistant";
    ui.edited.textContent = isAnswer ? "Changing an answer" : "Changing a message: what follows it is answered anew";
  }
  ui.thumbnails.hidden = !media.length;
  ui.thumbnails.replaceChildren(...media.map((one) => {
    const remove = make("button", { type: "button", ariaLabel: `Remove ${one.name}` });
    // A copy of an icon that is there already, turned by its style.
    remove.append(ui.new.firstChild.cloneNode(true));
    remove.firstChild.style.transform = "rotate(45deg)";
    remove.onclick = () => {
      media = media.filter((other) => other !== one);
      update();
    };
    return make("div", {}, thumbnail(one), remove);
  }));
  fit();
  // A hidden button cannot keep the focus; on a phone, the keyboard would come up.
  if ((!document.activeElement || document.activeElement === document.body) && !matchMedia("(pointer: coarse)").matches) ui.text.focus();
}

function fit() { // the field to its text
  ui.text.style.height = "auto";
  ui.text.style.height = `${ui.text.scrollHeight}px`;
}

function scrollDown() {
  if (atEnd) scroller.scrollTop = scroller.scrollHeight;
}

// Settings, keys and files

function openSettings(asks) {
  ui.asks.hidden = !asks;
  if (!ui.settings.open) ui.settings.showModal();
  if (asks) ui.key.focus();
}

for (const id of SETTINGS) {
  ui[id].value = session.get(id);
  ui[id].onchange = () => session.set(id, ui[id].value);
}
access.key = ui.key.value;
access.asked = () => openSettings(true);
ui.key.addEventListener("change", () => {
  access.key = ui.key.value;
  notify("");
  loadModel();
  if (!running) renderAnswers();
});
ui.open.onclick = () => openSettings(false);
ui["show-chats"].onclick = showChats;
ui.new.onclick = startAgain;
ui.stop.onclick = () => running?.abort();
ui.cancel.onclick = () => endEditing();
ui.export.onclick = async () => download(await conversations.listChats());
ui.import.onclick = () => ui.imported.click();
ui.imported.onchange = async () => {
  await importFile(ui.imported.files[0]);
  ui.imported.value = "";
};
ui.add.onclick = () => ui.files.click();
ui.files.onchange = async () => {
  await addFiles([...ui.files.files]);
  ui.files.value = "";
};
ui.composer.onsubmit = (event) => {
  event.preventDefault();
  send();
};
ui.text.oninput = fit;
ui.text.onkeydown = (event) => {
  if (event.key === "Escape" && editing) endEditing();
  // Enter also chooses a word of an input method; Safari says so by the code only.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  send();
};
document.onpaste = (event) => {
  const { files, types } = event.clipboardData;
  // Word processors add a picture of the text; macOS adds a copied file's name, without any form.
  const isText = types.includes("text/plain") && (types.includes("text/rtf") || types.includes("text/html"));
  if (!files.length || isText) return;
  event.preventDefault();
  addFiles([...files]);
};
const dropping = (event, on) => {
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  document.body.classList.toggle("dropping", on);
};
document.ondragover = (event) => dropping(event, true);
document.ondragleave = (event) => dropping(event, Boolean(event.relatedTarget));
document.ondrop = (event) => {
  dropping(event, false);
  if (event.dataTransfer.files.length) addFiles([...event.dataTransfer.files]);
};
scroller.onscroll = () => (atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 40);
update();
loadModel();
if (session.get("chat")) reportingFaults(() => openChat(session.get("chat")));
