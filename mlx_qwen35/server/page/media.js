// Pictures and videos on their way to the server, as {kind, url, name, poster}: data: URLs, the last of a video's first frame.

import { make } from "./elements.js";

const LARGEST_SIDE = 4096; // of a picture; larger ones are made smaller here, since the model sees no more of them
const SENT_AS_THEY_ARE = ["image/png", "image/jpeg", "image/webp"];
const LONGEST_WAIT = 10_000; // milliseconds, for a video's first frame
const LARGEST_VIDEO = 45 * 2 ** 20; // bytes; the server takes requests of 64 MiB, and base64 makes a third more of it

// Raises an Error that says what is wrong with the file.
export async function mediaOf(file) {
  const name = file.name || "This";
  if (!file.size && /^(image|video)\//.test(file.type)) throw new Error(`${name} is empty.`);
  const isPicture = file.type.startsWith("image/");
  if (!isPicture && !file.type.startsWith("video/")) throw new Error(`${name} is neither a picture nor a video.`);
  const picture = isPicture && await decoded(file, name);
  if (isPicture && !await moves(file)) return { kind: "image", url: await pictureUrl(file, picture), name: file.name || "image" };
  if (file.size > LARGEST_VIDEO) throw new Error(`${name} is a video of ${Math.ceil(file.size / 2 ** 20)} MiB; at most 45 can be sent.`);
  const url = await dataUrl(file);
  return { kind: "video", url, name: file.name || "video", poster: isPicture ? null : await firstFrame(url) };
}

// Whether a picture is an animation, which the server reads as a video: WebP and APNG say so, a GIF has a second frame.
async function moves(file) {
  const bytes = new Uint8Array(await file.arrayBuffer()), text = new TextDecoder("latin1").decode(bytes);
  if (text.startsWith("RIFF")) return text.startsWith("WEBPVP8X", 8) && Boolean(bytes[20] & 2);
  if (text.startsWith("PNG", 1)) return text.slice(0, Math.max(0, text.indexOf("IDAT"))).includes("acTL");
  return text.startsWith("GIF8") && text.split(/\0!\xf9\x04.{4}\0[!,]/s).length > 2;
}

async function decoded(file, name) {
  const image = new Image(), address = URL.createObjectURL(file);
  try {
    image.src = address;
    await image.decode();
  } catch {
    throw new Error(`${name} is not a picture that this browser can read.`);
  } finally {
    URL.revokeObjectURL(address);
  }
  // An image shows what there is of a file that was cut off; a bitmap is made of a whole one, and never of drawings.
  const cut = file.type !== "image/svg+xml" && await createImageBitmap(file).then((bitmap) => bitmap.close(), () => true);
  if (cut) throw new Error(`${name} is damaged: only a part of the picture is there.`);
  return image;
}

function pictureUrl(file, image) {
  const { naturalWidth: width, naturalHeight: height } = image, scale = Math.min(1, LARGEST_SIDE / Math.max(width, height));
  // Drawings may be transparent, and their edges are sharp; photographs are large.
  const type = /png|gif|svg/.test(file.type) ? "image/png" : "image/jpeg";
  return scale < 1 || !SENT_AS_THEY_ARE.includes(file.type) ? drawn(image, width * scale, height * scale, type) : dataUrl(file);
}

function drawn(source, width, height, type) {
  const canvas = make("canvas", { width: Math.max(1, Math.round(width)), height: Math.max(1, Math.round(height)) });
  const context = Object.assign(canvas.getContext("2d"), { imageSmoothingQuality: "high" });
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL(type, 0.92);
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name || "This"} cannot be read: ${reader.error.message}`));
    reader.readAsDataURL(file);
  });
}

// A video's first frame, or null where the browser cannot decode it: the server may know more formats.
export async function firstFrame(url) {
  const video = make("video", { muted: true, preload: "auto", playsInline: true });
  try {
    await new Promise((resolve, reject) => {
      video.onloadeddata = resolve;
      video.onerror = reject;
      setTimeout(reject, LONGEST_WAIT);
      video.src = url;
    });
    const scale = Math.min(1, 640 / Math.max(video.videoWidth, video.videoHeight));
    const canvas = make("canvas", { width: Math.max(1, video.videoWidth * scale), height: Math.max(1, video.videoHeight * scale) });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    // Loaded, a frame may still not be there to be drawn: nothing is drawn then.
    for (let waited = 0; waited < LONGEST_WAIT; waited += 50) {
      context.drawImage(video, 0, 0, canvas.width, canvas.height);
      if (context.getImageData(0, 0, 1, 1).data[3]) return canvas.toDataURL("image/jpeg", 0.92);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return null;
  } catch {
    return null;
  } finally {
    video.removeAttribute("src");
    video.load();
  }
}

const showsItself = (url) => url.startsWith("data:image/"); // as animations do, which are sent as videos

export function partOf({ kind, url }) { // of a message, as OpenAI's protocol has it
  return { type: `${kind}_url`, [`${kind}_url`]: { url } };
}

export function thumbnail({ kind, url, name, poster }) {
  if (kind === "image") return make("img", { src: url, alt: name });
  const frame = showsItself(url) ? url : poster;
  return frame ? make("img", { src: frame, alt: name, className: "video" }) : make("span", { textContent: name, className: "video" });
}

export function player(media) { // as it stands in the conversation
  if (showsItself(media.url)) return thumbnail(media);
  const video = make("video", { src: media.url, controls: true, muted: true, playsInline: true, preload: "metadata", ariaLabel: media.name });
  if (media.poster) video.poster = media.poster;
  return video;
}
