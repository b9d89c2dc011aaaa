import { defineConfig } from "vite";

const client = new URL("../typescript/src", import.meta.url).pathname;

// Three files with fixed names, which the gateway serves: index.html, app.js, app.css. They are committed, so they
// hold nothing that differs between two builds of the same sources.
export default defineConfig({
  resolve: {
    alias: [
      { find: /^@modelkeep\/client\/gen\/(.*)$/, replacement: `${client}/gen/$1.ts` },
      { find: /^@modelkeep\/client\/web$/, replacement: `${client}/web/index.ts` },
      { find: /^@modelkeep\/client$/, replacement: `${client}/index.ts` },
    ],
    // The client lies beside this package and has dependencies of its own: one copy of each is enough.
    dedupe: ["@bufbuild/protobuf", "@connectrpc/connect", "@connectrpc/connect-web"],
  },
  // For work on the page: calls go to a gateway that runs beside.
  server: { proxy: { "^/(modelkeep|grpc)\\.": "http://127.0.0.1:8080" } },
  build: {
    target: "es2023",
    modulePreload: false,
    assetsInlineLimit: 0,
    cssCodeSplit: false,
    chunkSizeWarningLimit: 1000,
    rolldownOptions: {
      output: { entryFileNames: "app.js", assetFileNames: "app[extname]" },
    },
  },
});
