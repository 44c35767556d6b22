"""How people sign in: password, second factor, single sign-on, sessions, confirming before what is sensitive."""
