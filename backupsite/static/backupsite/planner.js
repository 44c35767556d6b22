// Rows of definitions dragged onto an hour: what the form beside them does, for a mouse.
"use strict";
const form = document.getElementById("move");
for (const row of form.querySelectorAll("[data-drag]")) {
  row.draggable = true;
  row.addEventListener("dragstart", (event) => {
    // Those that are ticked go together with the one that is dragged.
    row.querySelector("input").checked = true;
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData("text/plain", row.dataset.drag);
  });
}
for (const hour of form.querySelectorAll("[data-drop]")) {
  hour.addEventListener("dragover", (event) => {
    event.preventDefault();
    hour.classList.add("is-over");
  });
  hour.addEventListener("dragleave", () => hour.classList.remove("is-over"));
  hour.addEventListener("drop", (event) => {
    event.preventDefault();
    form.elements.to.value = hour.dataset.drop;
    if (form.elements.to.value === hour.dataset.drop) form.requestSubmit();
  });
}
