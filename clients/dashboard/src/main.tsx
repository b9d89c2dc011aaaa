import { render } from "preact";
import { takeToken } from "./api/token";
import { App } from "./app";
import "./styles/index.css";

takeToken();
// An address with a token that is opened where the page is already changes what stands behind the # alone.
addEventListener("hashchange", () => takeToken() && location.reload());
const place = document.getElementById("app");
if (place !== null) render(<App />, place);
