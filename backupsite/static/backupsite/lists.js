// Choosing rows of a list: all at once, and how many are chosen. Without it each row is chosen by itself.
(() => {
  if (window.backupsiteLists) return;
  window.backupsiteLists = true;
  const boxes = () => [...document.querySelectorAll('input[form="bulk-form"][name="ids"]')];
  const show = () => {
    const all = document.getElementById("choose-all");
    const chosen = boxes().filter((box) => box.checked).length;
    if (all) {
      all.hidden = false;
      all.checked = chosen > 0 && chosen === boxes().length;
      all.indeterminate = chosen > 0 && chosen < boxes().length;
    }
    for (const button of document.querySelectorAll("[data-bulk-button]")) {
      button.dataset.words ??= button.textContent;
      button.textContent = chosen ? `${button.dataset.words} (${chosen})` : button.dataset.words;
    }
  };
  document.addEventListener("change", (event) => {
    if (event.target.id === "choose-all") for (const box of boxes()) box.checked = event.target.checked;
    if (event.target.id === "choose-all" || event.target.name === "ids") show();
  });
  document.addEventListener("htmx:afterSettle", show);
  document.addEventListener("DOMContentLoaded", show);
  if (document.readyState !== "loading") show();
})();
