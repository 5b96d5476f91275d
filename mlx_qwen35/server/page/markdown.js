// An answer's Markdown, which the server makes into HTML, while it is written and afterwards.

import { copyButton, make } from "./elements.js";
import { blocksOf } from "./server.js";

const PAUSE = 150; // milliseconds between two requests, however many tokens come in them

export class Markdown {
  #node; #onChange;
  #wanted = null; // what to show next: {text, whole}
  #running = null;
  #blocks = []; // what is shown: {html, line}, or {plain, line} where the server has no HTML
  #settled = 0; // how many of them no further text can change

  constructor(node, onChange = () => {}) {
    this.#node = node;
    this.#onChange = onChange;
  }

  // Shows a text that may go on, or the whole one. Once the promise is kept it is shown; false if as plain text only.
  show(text, whole) {
    this.#wanted = { text: text.replace(/\r\n?/g, "\n"), whole };
    this.#running ??= this.#run();
    return this.#running;
  }

  showPlain(text) {
    this.#replace(0, [{ plain: text, line: 0 }]);
    this.#settled = 0;
  }

  async #run() {
    for (let rendered = true;;) {
      const { text, whole } = this.#wanted;
      this.#wanted = null;
      rendered = await this.#render(text, whole);
      if (!whole) await new Promise((resolve) => setTimeout(resolve, PAUSE));
      if (this.#wanted) continue;
      this.#running = null;
      return rendered;
    }
  }

  async #render(text, whole) {
    if (whole) this.#settled = 0;
    const settled = this.#settled, from = this.#blocks[settled]?.line ?? 0;
    const lines = text.split("\n"), start = settled ? from : 0;
    let blocks, rendered = true;
    try {
      const part = lines.slice(start).join("\n");
      blocks = part.trim() ? await blocksOf(part, !whole) : [];
    } catch {
      rendered = false;
      blocks = [{ plain: lines.slice(start).join("\n"), line: 0 }];
    }
    this.#replace(settled, blocks.map((block) => ({ ...block, line: block.line + start })));
    // A block is over when the next one has begun with a whole line: with the last, it may turn out to have been none.
    for (let at = this.#blocks.length - 1; rendered && at > settled; at--) {
      if (this.#blocks[at].line < lines.length - 1) {
        this.#settled = at;
        break;
      }
    }
    this.#onChange();
    return rendered;
  }

  // Only blocks that changed are made anew, so that what is selected above stays so.
  #replace(from, blocks) {
    const before = this.#blocks;
    this.#blocks = [...before.slice(0, from), ...blocks];
    for (let at = from; at < this.#blocks.length; at++) {
      const { html, plain } = this.#blocks[at], old = this.#node.children[at];
      if (old && before[at].html === html && before[at].plain === plain) continue;
      const made = html === undefined ? make("p", { className: "plain", textContent: plain }) : element(html);
      if (old) old.replaceWith(made);
      else this.#node.append(made);
    }
    while (this.#node.children.length > this.#blocks.length) this.#node.lastChild.remove();
  }
}

function element(html) {
  const template = make("template", { innerHTML: html }), node = template.content.firstElementChild;
  node.dir = "auto";
  for (const box of template.content.querySelectorAll(".task-list-item-checkbox")) box.ariaLabel = box.checked ? "Done" : "Not done";
  // Pages that did not come over https or from this machine may not use the clipboard.
  if (navigator.clipboard) {
    for (const code of template.content.querySelectorAll(".code")) {
      code.firstElementChild.append(copyButton(() => code.lastElementChild.textContent));
    }
  }
  return node;
}
