"use strict";
// Filters the cases of the page by kind (buttons), category and run (lists) and text (search field). The number on each
// button is how many cases it would show.
(() => {
  const cases = [...document.querySelectorAll("article.case")].map((node) => ({
    node, ...node.dataset, kinds: ["all", ...node.dataset.kinds.split(" ")], text: node.textContent.toLowerCase(),
  }));
  const buttons = [...document.querySelectorAll("#filters button")];
  const selects = [...document.querySelectorAll("#filters select")];
  const search = document.querySelector("#filters input");
  let kind = "all";
  const update = () => {
    const wanted = search.value.trim().toLowerCase();
    const found = cases.filter((one) => one.text.includes(wanted)
      && selects.every((select) => !select.value || one[select.name] === select.value));
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.value === kind));
      button.lastElementChild.textContent = found.filter((one) => one.kinds.includes(button.value)).length;
    }
    const left = new Set(found.filter((one) => one.kinds.includes(kind)));
    for (const one of cases) one.node.hidden = !left.has(one);
    document.querySelector("#shown").textContent = `${left.size} of ${cases.length} cases`;
  };
  for (const button of buttons) button.addEventListener("click", () => { kind = button.value; update(); });
  for (const control of [...selects, search]) control.addEventListener("input", update);
  update();
})();
