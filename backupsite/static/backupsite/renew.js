// Parts of a page that ask for themselves again (the template tag `renewed`): not while nobody looks or somebody is at work
// in one, and without losing which rows are ticked, what is open and how far a wide table was scrolled. Without scripts a
// page stays as it came.
(() => {
  "use strict";
  const PART = "[data-seen]";
  const kept = new Map();

  const isRow = (field) => field.name === "ids" || field.id === "choose-all";
  const isTouched = (field) => {
    if (isRow(field)) return false;
    if (field.type === "checkbox" || field.type === "radio") return field.checked !== field.defaultChecked;
    if (field.options) {
      const first = Math.max([...field.options].findIndex((option) => option.defaultSelected), 0);
      return field.selectedIndex !== first;
    }
    return field.value !== field.defaultValue;
  };
  const isBusy = (part) => {
    const focused = document.activeElement;
    const chosen = getSelection();
    return (
      document.hidden ||
      document.querySelector("dialog[open]") !== null ||
      // A link or button with an id gets the focus back.
      (part.contains(focused) && (!focused.id || focused.matches("input, select, textarea"))) ||
      (!chosen.isCollapsed && part.contains(chosen.anchorNode)) ||
      [...part.querySelectorAll("input, select, textarea")].some(isTouched)
    );
  };
  const partOf = (event) => (event.target instanceof Element && event.target.matches(PART) ? event.target : null);

  const opened = (part) => [...part.querySelectorAll("details")];
  const ticked = (part) => [...part.querySelectorAll('input[name="ids"]')];
  const wide = (part) => [...part.querySelectorAll(".table-responsive")];
  const keep = (part) => {
    kept.set(part.id, {
      open: opened(part).map((one) => [one.querySelector("summary")?.textContent, one.open]),
      ids: ticked(part).filter((box) => box.checked).map((box) => box.value),
      scrolled: wide(part).map((one) => one.scrollLeft),
    });
  };
  const putBack = (part) => {
    const was = kept.get(part.id);
    if (!was) return;
    kept.delete(part.id);
    const open = new Map(was.open);
    for (const one of opened(part)) one.open = open.get(one.querySelector("summary")?.textContent) ?? one.open;
    for (const box of ticked(part)) box.checked = was.ids.includes(box.value);
    for (const [number, one] of wide(part).entries()) one.scrollLeft = was.scrolled[number] ?? 0;
  };

  document.addEventListener("htmx:configRequest", (event) => {
    if (partOf(event)) event.detail.headers["X-Seen"] = event.target.dataset.seen;
  });
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (partOf(event) && isBusy(event.target)) event.preventDefault();
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    const part = partOf(event);
    if (!part || event.detail.requestConfig.elt !== part) return;
    // Somebody may have begun meanwhile.
    if (isBusy(part)) event.detail.shouldSwap = false;
    else if (event.detail.shouldSwap) keep(part);
  });
  document.addEventListener("htmx:load", (event) => {
    if (partOf(event)) putBack(event.target);
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) for (const part of document.querySelectorAll(PART)) htmx.trigger(part, "renew");
  });
})();
