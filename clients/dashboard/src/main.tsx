import { render } from "preact";
import { takeToken } from "./api/token";
import { App } from "./app";
import "./styles/index.css";

takeToken();
const place = document.getElementById("app");
if (place !== null) render(<App />, place);
