// Light or dark: as the person chose on this browser, otherwise as the system has it. Loaded before the page is painted.
// And menus: one that is open closes with Escape, and when something else is chosen.
(() => {
  "use strict";
  const KEY = "backupsite-theme";
  const CHOICES = ["auto", "light", "dark"];
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  // A browser that keeps nothing for us follows the system.
  const chosen = () => {
    try {
      const kept = localStorage.getItem(KEY);
      return CHOICES.includes(kept) ? kept : "auto";
    } catch {
      return "auto";
    }
  };
  const keep = (choice) => {
    try {
      localStorage.setItem(KEY, choice);
    } catch {
      // Until the page is left, then.
    }
  };
  const apply = (choice) => {
    const shown = choice === "auto" ? (dark.matches ? "dark" : "light") : choice;
    document.documentElement.setAttribute("data-bs-theme", shown);
    for (const button of document.querySelectorAll("[data-theme-switch] [data-theme]")) {
      button.setAttribute("aria-pressed", String(button.dataset.theme === choice));
      button.classList.toggle("active", button.dataset.theme === choice);
    }
    document.dispatchEvent(new Event("themechange"));
  };

  const openMenus = () => document.querySelectorAll("details.portal-menu[open]");
  const start = () => {
    for (const part of document.querySelectorAll("[data-theme-switch]")) {
      part.hidden = false;
      part.addEventListener("click", (event) => {
        const button = event.target.closest("[data-theme]");
        if (!button) return;
        keep(button.dataset.theme);
        apply(button.dataset.theme);
      });
    }
    document.addEventListener("click", (event) => {
      for (const menu of openMenus()) if (!menu.contains(event.target)) menu.open = false;
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      for (const menu of openMenus()) {
        const inside = menu.contains(document.activeElement);
        menu.open = false;
        if (inside) menu.querySelector("summary").focus();
      }
    });
    apply(chosen());
  };

  dark.addEventListener("change", () => apply(chosen()));
  // Chosen in another window of the portal.
  window.addEventListener("storage", (event) => event.key === KEY && apply(chosen()));
  apply(chosen());
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
