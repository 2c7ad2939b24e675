// Hears the server, and draws.

const RETRY_MS = 2000;
/** Silence that means a lost connection. */
const SILENCE_MS = 3000;

const clock = new ServerClock();
let requests = new Requests();
let latest = null;
let heardAt = 0;
let paused = false;
let wordsAt = -Infinity;

const timeline = new Timeline($("timeline"), $("hint"), () => requests);
const span = new Span($("spans"), () => setSpan());

function setSpan() {
  if (timeline.spanMs === span.ms) return;
  timeline.spanMs = span.ms;
  timeline.relayout();
}

function hear(snapshot) {
  const restarted = latest && snapshot.now_ms < latest.now_ms;
  if (restarted) requests = new Requests();
  if (restarted || !latest) {
    showAbout(snapshot.about);
    timeline.relayout();
  }
  latest = snapshot;
  heardAt = performance.now();
  clock.hear(snapshot.now_ms, heardAt);
  requests.hear(snapshot);
  timeline.about = snapshot.about;
  span.hear(snapshot);
  if (!paused) setSpan();
  showNumbers(snapshot);
  connection("live", "live");
  if (heardAt - wordsAt > 1000) {
    wordsAt = heardAt;
    say("timeline-words", timelineWords(snapshot, timeline.spanMs, paused));
    if ($("table").open) showTable(snapshot);
  }
  if (still.matches) draw();
}

function connection(state, text) {
  if ($("connection").dataset.state !== state) {
    $("connection").dataset.state = state;
    document.body.classList.toggle("lost", state === "lost");
  }
  say("connection", text);
}

function connect() {
  const source = new EventSource("/live");
  source.onmessage = event => hear(JSON.parse(event.data));
  source.onerror = () => {
    lost();
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, RETRY_MS);
  };
}

function lost() {
  connection("lost", "connection lost");
}

setInterval(() => {
  if (latest && performance.now() - heardAt > SILENCE_MS) lost();
}, 500);

const still = matchMedia("(prefers-reduced-motion: reduce)");

function draw() {
  timeline.frame(paused ? null : clock.now(performance.now()));
}

function frame() {
  if (!still.matches) draw();
  requestAnimationFrame(frame);
}

$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").ariaPressed = String(paused);
  wordsAt = -Infinity;
});
$("table").addEventListener("toggle", () => {
  if (latest && $("table").open) showTable(latest);
});

connect();
requestAnimationFrame(frame);
