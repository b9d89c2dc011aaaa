// The rules for the code in TypeScript: scripts/npm.sh clients/lint && npm run --prefix clients/lint lint

import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["**/dist/**", "**/src/gen/**", "**/*.config.*"] },
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true } },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreArrowShorthand: true }],
      "@typescript-eslint/no-floating-promises": [
        "error",
        { allowForKnownSafeCalls: [{ from: "package", name: "test", package: "node:test" }] },
      ],
      // Reading a signal subscribes to it: `void` says that nothing else is wanted.
      "@typescript-eslint/no-meaningless-void-operator": "off",
      // Enums of protobuf are open: a newer service may send any number.
      "@typescript-eslint/no-unsafe-enum-assignment": "off",
      "@typescript-eslint/no-unsafe-enum-comparison": "off",
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_" }],
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
    },
  },
  // The services that tests script have the API's form, whether they wait or not.
  { files: ["**/test/**"], rules: { "@typescript-eslint/require-await": "off" } },
);
