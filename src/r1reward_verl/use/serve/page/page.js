// The page of `r1reward serve`. All texts go into the document as text, never as HTML. Runs in browsers from 2021 on.
"use strict";

const LETTERS = "ABCDEFGH";
const LARGE = 3 << 20; // bytes of a file that is scaled down before it is sent
const SIDE = 2048;
const KEY = "r1reward-key";
const find = (selector, within = document) => within.querySelector(selector);
const copy = (id) => find(`#${id}`).content.firstElementChild.cloneNode(true);
const form = find("#ask");
const answers = find("#answers");
let running = null;

// Pictures

function readAs(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(new Error(`${file.name || "The picture"} cannot be read.`)));
    reader.readAsDataURL(file);
  });
}

async function dataUri(file) {
  if (file.size <= LARGE && /^image\/(png|jpeg|webp|gif)$/.test(file.type)) return readAs(file);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch (error) {
    throw new Error(`${file.name || "This file"} is no picture that the browser can read.`);
  }
  const factor = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * factor));
  canvas.height = Math.max(1, Math.round(bitmap.height * factor));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.9);
}

function showPicture(list, uri) {
  const figure = document.createElement("figure");
  const image = document.createElement("img");
  const remove = document.createElement("button");
  image.src = uri;
  image.alt = "";
  remove.type = "button";
  remove.textContent = "×";
  remove.setAttribute("aria-label", "Remove this picture");
  remove.addEventListener("click", () => figure.remove());
  figure.append(image, remove);
  list.append(figure);
}

async function addPictures(files, target) {
  const answer = target && target.closest ? target.closest(".answer") : null;
  const list = answer ? find(".pictures", answer) : find("#pictures");
  try {
    for (const file of files) showPicture(list, await dataUri(file));
    tell("");
  } catch (error) {
    tell(error.message);
  }
}

const picturesIn = (list) => [...list.querySelectorAll("img")].map((image) => image.src);
const imageFiles = (data) => [...((data && data.files) || [])].filter((file) => file.type.startsWith("image/"));

find("#file").addEventListener("change", (event) => {
  addPictures([...event.target.files], null);
  event.target.value = "";
});
document.addEventListener("paste", (event) => {
  const files = imageFiles(event.clipboardData);
  if (!files.length) return;
  event.preventDefault();
  addPictures(files, event.target);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  markTarget(event.target);
});
document.addEventListener("dragleave", () => markTarget(null));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  markTarget(null);
  addPictures(imageFiles(event.dataTransfer), event.target);
});

function markTarget(target) {
  for (const one of document.querySelectorAll(".over")) one.classList.remove("over");
  if (target && target.closest) (target.closest(".answer") || find("#drop")).classList.add("over");
}

// Answers

function addAnswer(text = "") {
  const node = copy("answer");
  find("textarea", node).value = text;
  find(".remove", node).addEventListener("click", () => {
    node.remove();
    number();
  });
  answers.append(node);
  number();
}

function number() {
  const nodes = [...answers.children];
  nodes.forEach((node, index) => {
    find(".letter", node).textContent = LETTERS[index];
    find(".name", node).textContent = `Answer ${LETTERS[index]}`;
    find("textarea", node).id = `answer-${index}`;
    find("label", node).htmlFor = `answer-${index}`;
    find(".remove", node).hidden = nodes.length <= 2;
  });
  find("#add").hidden = nodes.length >= LETTERS.length;
}

function read() {
  const responses = [...answers.children].map((node) => {
    const text = find("textarea", node).value;
    const images = picturesIn(find(".pictures", node));
    return images.length ? { text, images } : text;
  });
  return { question: find("#question").value, media: picturesIn(find("#pictures")), responses };
}

// The service

async function ask(body) {
  const headers = { "Content-Type": "application/json" };
  const key = find("#key").value.trim();
  if (key) headers.Authorization = `Bearer ${key}`;
  const settings = { schedule: "all_pairs", both_orders: true, score: "win_rate" };
  const sent = JSON.stringify({ ...body, settings });
  const answer = await fetch("v1/rank", { method: "POST", headers, body: sent, signal: running.signal });
  const content = await answer.json().catch(() => ({}));
  if (answer.ok) return content;
  const error = content.error || { message: `The service answered ${answer.status}.` };
  if (answer.status === 401) {
    find("#access").hidden = false;
    find("#access").open = true;
    find("#key").focus();
    throw new Error(key ? "This access key is not the right one." : "This service needs an access key.");
  }
  throw new Error(inWords(error, body));
}

function inWords(error, body) {
  const place = /^responses\[(\d+)\]/.exec(error.field || "");
  const known = { question: "Enter a question.", media: "" }[error.field];
  if (known) return known;
  if (!place) return error.message;
  const value = body.responses[place[1]];
  const name = `Answer ${LETTERS[place[1]]}`;
  return typeof value === "string" && !value.trim() ? `${name} is empty.` : `${name}: ${error.message}`;
}

async function showState() {
  const state = find("#state");
  let about = { ready: false, reason: "the service cannot be reached" };
  try {
    about = await (await fetch("ready")).json();
  } catch (error) {
    // as said above
  }
  state.className = about.ready ? "ready" : "down";
  find("span", state).textContent = about.ready ? "ready" : about.reason;
  if (about.key) find("#access").hidden = false;
}

function tell(text) {
  find("#message").textContent = text;
  find("#message").hidden = !text;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (running) return;
  const body = read();
  const button = find("#compare");
  running = new AbortController();
  tell("");
  button.classList.add("busy");
  form.setAttribute("aria-busy", "true");
  try {
    show(await ask(body), body);
  } catch (error) {
    tell(error instanceof TypeError ? "The service cannot be reached." : error.message);
  } finally {
    running = null;
    button.classList.remove("busy");
    form.removeAttribute("aria-busy");
    showState();
  }
});
window.addEventListener("pagehide", () => running && running.abort());

// The result

const textOf = (response) => (typeof response === "string" ? response : response.text || "(pictures)");

function show(result, body) {
  showRanking(result, body);
  const pairs = new Map();
  for (const one of result.comparisons) {
    const name = [one.first, one.second].sort().join();
    pairs.set(name, [...(pairs.get(name) || []), one]);
  }
  const names = [...pairs.keys()].sort();
  const shown = names.map((name) => pairNode(pairs.get(name).sort((a, b) => a.first - b.first)));
  find("#pairs").replaceChildren(...shown);
  if (shown.length) shown[0].open = true;
  find("#result").hidden = false;
  find("#result").scrollIntoView({ behavior: "smooth", block: "start" });
}

function showRanking(result, body) {
  const nodes = result.order.map((index) => {
    const node = copy("rank");
    const [score, error, rank] = [result.scores[index], result.standard_errors[index], result.ranks[index]];
    find(".place", node).textContent = Number.isInteger(rank) ? `${rank}.` : `${Math.floor(rank)}=`;
    find(".letter", node).textContent = LETTERS[index];
    find(".text", node).textContent = textOf(body.responses[index]);
    find(".bar span", node).style.width = `${Math.round(100 * score)}%`;
    find(".score", node).textContent = `${Math.round(100 * score)}%`;
    const small = document.createElement("small");
    small.textContent = `± ${Math.round(100 * error)}`;
    find(".score", node).append(small);
    if (rank < 2) node.className = "best";
    return node;
  });
  find("#ranking").replaceChildren(...nodes);
  const facts = [`Share of ${result.comparisons.length} comparisons won, with its standard error.`];
  const count = (number, one, many) => number && facts.push(number === 1 ? one : `${number} ${many}`);
  count(result.order_disagreements, "One verdict depends on the order.", "verdicts depend on the order.");
  count(result.cycles, "One triple contradicts itself: A beats B beats C beats A.", "triples contradict themselves.");
  count(result.failed, "One comparison gave no verdict.", "comparisons gave no verdict.");
  find("#summary").textContent = facts.join(" ");
}

function pairNode(orders) {
  const node = copy("pair");
  const [low, high] = [orders[0].first, orders[0].second].sort();
  const verdicts = orders.map((one) => one.verdict);
  find(".title", node).textContent = `${LETTERS[low]} or ${LETTERS[high]}`;
  const [text, kind] = badge(verdicts, orders);
  find(".badge", node).textContent = text;
  find(".badge", node).classList.add(kind);
  find(".orders", node).append(...orders.map(orderNode));
  return node;
}

function badge(verdicts, orders) {
  if (orders.some((one) => one.probability === null)) return ["no verdict in some order", "fail"];
  if (verdicts.every((one) => one !== null && one === verdicts[0])) {
    return [`${LETTERS[verdicts[0]]} is better in ${orders.length > 1 ? "both orders" : "this order"}`, "agree"];
  }
  return verdicts.includes(null) ? ["undecided", "doubt"] : ["the order decides", "doubt"];
}

function orderNode(one) {
  const node = copy("order");
  const [first, second] = [LETTERS[one.first], LETTERS[one.second]];
  find("h3", node).textContent = `Response 1 is ${first}, response 2 is ${second}`;
  const verdict = one.verdict === null ? (one.probability === null ? "No verdict" : "Undecided") : `${LETTERS[one.verdict]} is better`;
  find(".verdict", node).textContent = verdict;
  find(".reasoning", node).textContent = one.reasoning || one.error || "There is no reasoning.";
  return node;
}

// An example

function drawExample() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 224;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#f4f4f0";
  pen.fillRect(0, 0, 224, 224);
  pen.fillStyle = "#d33a2c";
  pen.beginPath();
  pen.arc(84, 112, 48, 0, 2 * Math.PI);
  pen.fill();
  pen.fillStyle = "#2456c9";
  pen.fillRect(146, 78, 60, 60);
  return canvas.toDataURL("image/png");
}

find("#example").addEventListener("click", () => {
  find("#question").value = "What do you see in the picture?";
  find("#pictures").replaceChildren();
  showPicture(find("#pictures"), drawExample());
  answers.replaceChildren();
  addAnswer("A red circle on the left, and to its right a smaller blue square.");
  addAnswer("Two blue circles.");
  addAnswer("Some shapes.");
});

find("#add").addEventListener("click", () => {
  addAnswer();
  find("textarea", answers.lastElementChild).focus();
});
find("#key").value = sessionStorage.getItem(KEY) || "";
find("#key").addEventListener("input", (event) => sessionStorage.setItem(KEY, event.target.value.trim()));
addAnswer();
addAnswer();
showState();
