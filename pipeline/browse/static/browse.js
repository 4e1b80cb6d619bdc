// Playing a clip within its seconds, and keeping ticks in the page's address.

// --- playing -----------------------------------------------------------------------------------

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.play");
  if (button) play(button.closest(".clip"), button);
});

async function play(clip, button) {
  if (button.getAttribute("aria-busy") === "true") return;
  button.setAttribute("aria-busy", "true");
  say(clip, "");
  try {
    const answer = await fetch(`/clips/${encodeURIComponent(clip.dataset.clip)}/play`);
    const how = answer.ok ? await answer.json() : { problem: "The clip is not in the tables any more." };
    if (how.problem) say(clip, `Cannot be played: ${how.problem}`);
    else show(clip, button, how);
  } catch {
    say(clip, "The server does not answer: is reeltable browse still running?");
  } finally {
    button.removeAttribute("aria-busy");
  }
}

function show(clip, button, how) {
  const video = document.createElement("video");
  video.controls = true;
  video.playsInline = true;
  video.tabIndex = 0;
  const still = button.querySelector("img");
  if (still) video.poster = still.src;
  video.setAttribute("aria-label", button.getAttribute("aria-label").replace(/^Play /, ""));
  const span = { start: 0, end: 0 };
  const put = (part) => {
    span.start = part.start_s;
    span.end = part.end_s;
    video.dataset.start = part.start_s;
    video.dataset.end = part.end_s;
    video.src = part.url;
    if (clip.dataset.from === "excerpt") say(clip, "A preview is being made…", true);
  };
  video.addEventListener("loadeddata", () => say(clip, ""));
  video.addEventListener("loadedmetadata", () => {
    video.currentTime = span.start;
    video.play().catch(() => {}); // a browser that plays nothing unasked shows its own button
  });
  video.addEventListener("play", () => {
    if (video.currentTime < span.start - 0.1 || video.currentTime >= span.end - 0.05) {
      video.currentTime = span.start;
    }
    pauseOthers(video);
    watch();
  });
  // Frames where the page is seen, the element's own ticks where it is not.
  const watch = () => {
    if (video.paused) return;
    stopAtEnd();
    requestAnimationFrame(watch);
  };
  const stopAtEnd = () => {
    if (!video.paused && !video.seeking && video.currentTime >= span.end) {
      video.pause();
      video.currentTime = span.end;
    }
  };
  video.addEventListener("timeupdate", stopAtEnd);
  video.addEventListener("error", () => {
    if (how.otherwise) {
      const excerpt = how.otherwise;
      how.otherwise = null;
      clip.dataset.from = "excerpt";
      put(excerpt);
    } else {
      video.replaceWith(button);
      button.focus();
      say(clip, "Cannot be played: no preview can be made of it.");
    }
  });
  clip.dataset.from = how.from;
  put(how);
  const hadFocus = document.activeElement === button;
  button.replaceWith(video);
  if (hadFocus) video.focus();
}

// The chosen clip may play beside one of those like it: that is what they are compared for.
function pauseOthers(video) {
  const place = video.closest(".chosen, main");
  for (const other of place.querySelectorAll("video")) if (other !== video) other.pause();
}

function say(clip, text, isCalm = false) {
  const line = clip.querySelector(".problem");
  line.textContent = text;
  line.classList.toggle("calm", isCalm);
}

// --- ticks -------------------------------------------------------------------------------------

const bar = document.querySelector(".ticks");
const ticked = new Set(
  new URLSearchParams(location.search).getAll("ticked").flatMap((ids) => ids.split(",")).filter(Boolean),
);

document.addEventListener("change", (event) => {
  const box = event.target;
  if (!box.matches(".tick input")) return;
  if (box.checked && ticked.size >= Number(bar.dataset.most)) {
    box.checked = false;
    say(box.closest(".clip"), `No more than ${bar.dataset.most} clips can be ticked.`);
    return;
  }
  if (box.checked) ticked.add(box.value);
  else ticked.delete(box.value);
  for (const same of document.querySelectorAll(".tick input")) {
    if (same.value === box.value) same.checked = box.checked;
  }
  keep();
});

// The address is the page's memory: links, the form and whoever is sent it find the ticks there.
function keep() {
  const ids = [...ticked].join(",");
  history.replaceState(null, "", withTicks(location.href, ids));
  for (const link of bar.querySelectorAll("a[data-export]")) link.href = withTicks(link.href, ids);
  const field = document.querySelector(".filters input[name=ticked]");
  if (field) {
    field.value = ids;
    field.disabled = !ids;
  }
  bar.hidden = !ids;
  bar.querySelector(".count").textContent = ticked.size;
}

// A link takes the ticks along when somebody turns to it: on all links at once they could be megabytes.
for (const turn of ["pointerover", "focusin", "click"]) {
  document.addEventListener(turn, (event) => {
    const link = event.target.closest("a[data-keep]");
    if (link) link.href = withTicks(link.href, [...ticked].join(","));
  }, true);
}

function withTicks(href, ids) {
  const url = new URL(href);
  url.searchParams.delete("ticked");
  if (ids) url.searchParams.set("ticked", ids);
  return url.href;
}

// Fields that say nothing stay out of the address, so that it can be read and sent.
document.querySelector(".filters")?.addEventListener("formdata", (event) => {
  for (const [name, value] of [...event.formData]) if (!value) event.formData.delete(name);
});
