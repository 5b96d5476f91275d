// Elements of the page that several of its parts make.

export function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function copyButton(text) {
  const button = make("button", { type: "button", textContent: "Copy" });
  button.onclick = async () => {
    button.textContent = await navigator.clipboard.writeText(text()).then(() => "Copied", () => "Not copied");
    setTimeout(() => (button.textContent = "Copy"), 1500);
  };
  return button;
}
