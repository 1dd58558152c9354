"use strict";
// The table's filter, and folded parts on paper. Everything is there without it.
const rows = [...document.querySelectorAll("#devices tbody tr")];
const place = document.getElementById("filter");
const make = (name, words) => {
  const label = document.createElement("label");
  const field = document.createElement(name);
  label.append(words, field);
  place.append(label);
  return field;
};
const result = make("select", "Result");
const find = make("input", "Find");
const shown = document.createElement("span");
shown.setAttribute("role", "status");
place.append(shown);
find.type = "search";
find.placeholder = "entity id, wave, cause";
for (const name of ["any", ...new Set(rows.map((row) => row.className))]) {
  result.add(new Option(name.replaceAll("_", " "), name));
}
let texts = null; // made when first needed
const look = () => {
  texts ??= rows.map((row) => row.textContent.toLowerCase());
  const words = find.value.trim().toLowerCase();
  let count = 0;
  rows.forEach((row, at) => {
    const is = (result.value === "any" || row.className === result.value) && texts[at].includes(words);
    row.hidden = !is;
    count += is;
  });
  shown.textContent = `${count.toLocaleString("en-GB")} of ${rows.length.toLocaleString("en-GB")} devices`;
};
result.addEventListener("change", look);
find.addEventListener("input", look);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
shown.textContent = `${rows.length.toLocaleString("en-GB")} devices`;
