// Numbers as people read them.

const dash = "–";
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** Three digits at least: 0.42, 4.2, 42, 4,242. */
function number(value) {
  if (value == null) return dash;
  if (value < 1) return value.toFixed(2);
  return value < 10 ? value.toFixed(1) : whole.format(value);
}

function duration(ms) {
  if (ms == null) return dash;
  return ms < 10_000 ? `${number(ms)} ms` : `${number(ms / 1000)} s`;
}

function bytes(value) {
  return `${(value / 2 ** 30).toFixed(1)} GiB`;
}

function words(name) {
  return name.replaceAll("_", " ");
}

/** Counts by name: "full 12, window 3". */
function counts(of) {
  return Object.entries(of).map(([name, count]) => `${words(name)} ${whole.format(count)}`).join(", ");
}
