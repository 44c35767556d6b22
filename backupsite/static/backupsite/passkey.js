// Passkeys: a form with data-passkey asks the browser for one and sends what it answers.
// create: a new one; get: one of this account; ask: one of any account, with options fetched when the button is pressed.
(() => {
  "use strict";

  const toBytes = (text) => {
    const padded = text.replace(/-/g, "+").replace(/_/g, "/").padEnd(Math.ceil(text.length / 4) * 4, "=");
    return Uint8Array.from(atob(padded), (sign) => sign.charCodeAt(0));
  };
  const toText = (buffer) => {
    const signs = Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join("");
    return btoa(signs).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  };
  const listed = (list) => (list || []).map((entry) => ({ ...entry, id: toBytes(entry.id) }));

  const described = (credential) => {
    const answer = { clientDataJSON: toText(credential.response.clientDataJSON) };
    for (const name of ["attestationObject", "authenticatorData", "signature", "userHandle"]) {
      if (credential.response[name]) answer[name] = toText(credential.response[name]);
    }
    return {
      id: credential.id,
      rawId: toText(credential.rawId),
      type: credential.type,
      response: answer,
      clientExtensionResults: credential.getClientExtensionResults(),
    };
  };

  const create = (options, withoutPassword) => {
    const wanted = { ...options };
    wanted.challenge = toBytes(options.challenge);
    wanted.user = { ...options.user, id: toBytes(options.user.id) };
    wanted.excludeCredentials = listed(options.excludeCredentials);
    if (withoutPassword) {
      wanted.authenticatorSelection = {
        ...options.authenticatorSelection,
        residentKey: "required",
        requireResidentKey: true,
        userVerification: "required",
      };
    }
    return navigator.credentials.create({ publicKey: wanted });
  };
  const get = (options) =>
    navigator.credentials.get({
      publicKey: {
        ...options,
        challenge: toBytes(options.challenge),
        allowCredentials: listed(options.allowCredentials),
      },
    });

  const fetched = async (form) => {
    const answer = await fetch(form.action, { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error("The portal did not answer as it should.");
    return answer.json();
  };

  const run = async (form) => {
    const kind = form.dataset.passkey;
    const told = form.dataset.options ? JSON.parse(document.getElementById(form.dataset.options).textContent) : await fetched(form);
    const withoutPassword = Boolean(form.elements.passwordless && form.elements.passwordless.checked);
    const credential =
      kind === "create"
        ? await create(told.creation_options.publicKey, withoutPassword)
        : await get(told.request_options.publicKey);
    form.elements.credential.value = JSON.stringify(described(credential));
    form.submit();
  };

  for (const form of document.querySelectorAll("form[data-passkey]")) {
    const button = form.querySelector("button");
    const alert = form.querySelector("[role=alert]");
    if (!window.PublicKeyCredential) {
      button.hidden = true;
      continue;
    }
    button.hidden = false;
    button.addEventListener("click", () => {
      alert.hidden = true;
      run(form).catch(() => {
        alert.textContent = "That did not work. Try again, or use another way.";
        alert.hidden = false;
      });
    });
  }
})();
