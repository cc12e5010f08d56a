// Counts the time down and looks every 15 seconds whether the list changed. Everything works without it.
"use strict";

const REFRESH_MS = 15000;

function spoken(left) {
  const whole = (seconds) => Math.floor(seconds);
  if (left >= 2 * 86400) return `${whole(left / 86400)} days`;
  if (left >= 2 * 3600) return `${whole(left / 3600)} h ${whole((left % 3600) / 60)} min`;
  return left >= 60 ? `${whole(left / 60)} min ${left % 60} s` : `${left} s`;
}

let began = performance.now();

function count() {
  const gone = Math.floor((performance.now() - began) / 1000);
  for (const clock of document.querySelectorAll("[data-left]")) {
    const left = Math.max(0, Number(clock.dataset.left) - gone);
    const words = left > 0 ? spoken(left) : "time is over";
    if (clock.textContent !== words) clock.textContent = words;
    clock.classList.toggle("soon", left < 60);
  }
}

function take(fresh) {
  const focused = document.activeElement?.getAttribute("href");
  const status = fresh.getElementById("count");
  if (document.getElementById("count").textContent !== status.textContent)
    document.getElementById("count").textContent = status.textContent;
  document.getElementById("tickets").replaceChildren(...fresh.getElementById("tickets").childNodes);
  document.title = fresh.title;
  began = performance.now();
  if (focused) [...document.querySelectorAll("#tickets a")].find((link) => link.getAttribute("href") === focused)?.focus();
}

async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.href, { cache: "no-store", redirect: "error", signal: AbortSignal.timeout(10000) });
    if (answer.status === 401) return location.reload();
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (answer.ok && fresh.getElementById("live")) take(fresh);
  } catch {
    // The gateway is away for a moment: the list stays as it was, and the next look is soon.
  }
}

setInterval(count, 1000);
if (document.getElementById("live")) setInterval(refresh, REFRESH_MS);
