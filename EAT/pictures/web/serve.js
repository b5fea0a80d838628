"use strict";
// The page of `python -m EAT.serve`: sends a sound, shows what comes back, plays it. Nothing is kept here or there.

const $ = (id) => document.getElementById(id);
const sound = $("sound");
let about = { max_megabytes: Infinity, max_seconds: 60, classes: 0, clips: 0 };
let seconds = 0;
let recorder = null;
let latest = 0; // answers to older sounds are not shown
let address = null; // of the sound in memory

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

function clock(at, digits = 1) {
  const minutes = Math.floor(at / 60);
  const rest = (at - 60 * minutes).toFixed(digits);
  return `${minutes}:${rest.padStart(digits ? 3 + digits : 2, "0")}`;
}

// ---- a sound, on its way to the model ----

async function post(name, content) {
  if (content.size > about.max_megabytes * 1e6) {
    throw new Error(`The file has ${(content.size / 1e6).toFixed(1)} MB; at most ${about.max_megabytes} are taken.`);
  }
  const response = await fetch(`/sound?name=${encodeURIComponent(name)}`, { method: "POST", body: content });
  const answer = await response.json();
  if (!response.ok) throw Object.assign(new Error(answer.error), { status: response.status });
  return answer;
}

// What the server cannot read, the browser often can: m4a, webm. It is sent as a WAV file then.
async function asWav(content) {
  const context = new OfflineAudioContext(1, 1, 48000);
  const decoded = await context.decodeAudioData(await content.arrayBuffer());
  const mono = new Float32Array(decoded.length);
  for (let channel = 0; channel < decoded.numberOfChannels; channel++) {
    decoded.getChannelData(channel).forEach((value, at) => { mono[at] += value / decoded.numberOfChannels; });
  }
  const bytes = new DataView(new ArrayBuffer(44 + 2 * mono.length));
  const text = (at, letters) => [...letters].forEach((letter, i) => bytes.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF"); bytes.setUint32(4, 36 + 2 * mono.length, true); text(8, "WAVEfmt ");
  bytes.setUint32(16, 16, true); bytes.setUint16(20, 1, true); bytes.setUint16(22, 1, true);
  bytes.setUint32(24, decoded.sampleRate, true); bytes.setUint32(28, 2 * decoded.sampleRate, true);
  bytes.setUint16(32, 2, true); bytes.setUint16(34, 16, true);
  text(36, "data"); bytes.setUint32(40, 2 * mono.length, true);
  mono.forEach((value, at) => bytes.setInt16(44 + 2 * at, Math.max(-1, Math.min(1, value)) * 32767, true));
  return new Blob([bytes.buffer], { type: "audio/wav" });
}

async function ask(name, content) {
  const number = ++latest;
  say(`Listening to ${name} …`);
  $("heard").setAttribute("aria-busy", "true");
  try {
    let played = content;
    let answer;
    try {
      answer = await post(name, content);
    } catch (error) {
      if (error.status !== 415) throw error;
      played = await asWav(content).catch(() => { throw error; });
      answer = await post(name, played);
    }
    if (number === latest) show(name, played, answer);
  } catch (error) {
    if (number === latest) say(error instanceof TypeError ? "The server does not answer." : error.message, true);
  } finally {
    $("heard").removeAttribute("aria-busy");
  }
}

async function record() {
  if (recorder) { recorder.stop(); return; }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
  } catch (error) {
    say(`There is no microphone to record from (${error.message}).`, true);
    return;
  }
  const parts = [];
  recorder = new MediaRecorder(stream);
  recorder.ondataavailable = (event) => parts.push(event.data);
  const limit = setTimeout(() => recorder && recorder.stop(), 1000 * about.max_seconds);
  recorder.onstop = async () => {
    clearTimeout(limit);
    stream.getTracks().forEach((track) => track.stop());
    recorder = null;
    $("record").textContent = "Record";
    $("record").setAttribute("aria-pressed", "false");
    await ask("recording", await asWav(new Blob(parts)).catch(() => new Blob(parts)));
  };
  recorder.start();
  $("record").textContent = "Stop";
  $("record").setAttribute("aria-pressed", "true");
  say("Recording …");
}

// ---- what came back ----

function fill(image, picture, text) {
  image.src = picture.image;
  image.style.width = `${100 * picture.seconds / seconds}%`;
  if (text) image.alt = text;
}

function show(name, content, heard) {
  seconds = heard.seconds;
  if (address) URL.revokeObjectURL(address);
  address = URL.createObjectURL(content);
  sound.src = address;
  $("name").textContent = name;
  fill($("spectrogram"), heard.spectrogram);
  fill($("features"), heard.features);
  $("ticks").replaceChildren(...Object.entries(heard.ticks).map(([hertz, place]) => {
    const tick = element("span", { textContent: `${hertz}Hz`.replace(/(\d)Hz/, "$1 Hz") });
    tick.style.bottom = `${100 * place}%`;
    return tick;
  }));
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300].find((size) => seconds / size <= 8) || 600;
  $("times").replaceChildren(...Array.from({ length: Math.floor(seconds / step) + 1 }, (_, number) => {
    const mark = element("span", { textContent: clock(number * step, step < 1 ? 1 : 0) });
    mark.style.left = `${100 * number * step / seconds}%`;
    return mark;
  }));
  $("place").max = seconds;
  const [red, green, blue] = heard.features.fractions.map((fraction) => `${Math.round(100 * fraction)} %`);
  $("colours").textContent = `Patches of like colour have like features: red, green and blue are their three principal `
    + `components (${red}, ${green} and ${blue} of the variance).`;
  $("timeline").replaceChildren(...heard.classes.flatMap((found) => row(found, heard.edges)));
  $("near").hidden = !heard.neighbours.length;
  $("neighbours").replaceChildren(...heard.neighbours.map(neighbour));
  $("neighbour").hidden = true;
  $("neighbour").pause();
  $("heard").hidden = false;
  move();
  const best = [...heard.classes].sort((a, b) => b.score - a.score)[0];
  say(`${name}, ${clock(seconds)}${best ? `: ${best.name} (${best.score.toFixed(2)})` : ""}.`);
}

// A class: its name, a button that plays where it is most active, and its score in every slot as a height.
function row(found, edges) {
  const peak = found.scores.indexOf(Math.max(...found.scores));
  const score = found.scores[peak];
  const button = element("button", { type: "button", className: "class", title: found.name },
    element("span", { textContent: found.name }), element("span", { className: "value", textContent: score.toFixed(2) }));
  button.setAttribute("aria-label", `${found.name}, at most ${score.toFixed(2)}: play from ${clock(edges[peak])}`);
  button.addEventListener("click", () => playFrom(edges[peak]));
  const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  picture.setAttribute("viewBox", `0 0 ${seconds} 1`);
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("aria-hidden", "true");
  found.scores.forEach((value, slot) => {
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const place = { x: edges[slot], width: edges[slot + 1] - edges[slot], y: 1 - value, height: value, fill: "#245fc7" };
    Object.entries(place).forEach(([key, number]) => bar.setAttribute(key, number));
    picture.append(bar);
  });
  const slots = element("div", { className: "slots" }, picture);
  slots.addEventListener("click", clicked);
  return [button, slots];
}

function neighbour(near) {
  const button = element("button", { type: "button", className: "plain", textContent: near.name });
  button.setAttribute("aria-label", `play ${near.name}`);
  button.addEventListener("click", () => {
    sound.pause();
    $("neighbour").hidden = false;
    $("neighbour").src = `/clip/${near.number}`;
    $("neighbour").play().catch(() => say("The clip cannot be played.", true));
  });
  const bar = element("i");
  bar.style.width = `${100 * Math.max(0, near.similarity)}%`;
  return element("li", {}, element("div", { className: "row" }, button, element("div", { className: "bar" }, bar),
    element("span", { className: "value", textContent: near.similarity.toFixed(2) })));
}

// ---- playing ----

function playFrom(at) {
  $("neighbour").pause();
  sound.currentTime = Math.max(0, Math.min(at, seconds));
  sound.play().catch(() => say("The browser cannot play this format; the pictures are right all the same.", true));
  move();
}

function clicked(event) {
  const box = event.currentTarget.getBoundingClientRect();
  playFrom(seconds * (event.clientX - box.left) / box.width);
}

function move() {
  const at = sound.currentTime || 0;
  $("place").value = at;
  $("place").setAttribute("aria-valuetext", clock(at));
  $("clock").textContent = `${clock(at)} / ${clock(seconds)}`;
  const part = seconds ? Math.min(1, at / seconds) : 0;
  $("cursor").style.left = `calc(var(--names) + 10px + (100% - var(--names) - 10px) * ${part})`;
  if (!sound.paused) requestAnimationFrame(move);
}

sound.addEventListener("play", () => { $("play").textContent = "Pause"; move(); });
sound.addEventListener("pause", () => { $("play").textContent = "Play"; move(); });
sound.addEventListener("seeked", move);
$("play").addEventListener("click", () => sound.paused ? playFrom(sound.ended ? 0 : sound.currentTime) : sound.pause());
$("place").addEventListener("input", () => { sound.currentTime = Number($("place").value); move(); });
$("place").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
  if (event.key === "Enter" || event.key === " ") $("play").click();
  else if (step) sound.currentTime = Math.max(0, Math.min(seconds, sound.currentTime + step * Math.max(0.1, seconds / 50)));
  else return;
  move();
  event.preventDefault();
});
document.querySelectorAll(".tracks .track:not(.slider)").forEach((track) => track.addEventListener("click", clicked));

$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) ask(file.name, file);
  $("file").value = "";
});
$("record").addEventListener("click", record);
if (!navigator.mediaDevices || !window.MediaRecorder) {
  $("record").disabled = true;
  $("record").title = "browsers record on https and on localhost alone";
}
["dragenter", "dragover"].forEach((kind) => addEventListener(kind, (event) => {
  event.preventDefault();
  document.body.classList.add("over");
}));
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) ask(file.name, file);
});

fetch("/about").then((response) => response.json()).then((told) => {
  about = told;
  const knows = [told.classes ? `${told.classes} classes` : "", told.clips ? `a collection of ${told.clips} clips` : ""];
  const limits = `up to ${told.max_megabytes} MB and ${clock(told.max_seconds, 0)} minutes; nothing is kept`;
  $("about").textContent = `${[told.title, ...knows.filter(Boolean)].join(", ")}. ${told.note} Sounds of ${limits}.`;
}).catch(() => say("The server does not answer.", true));
