// Numbers as people read them.

/** "12 B", "3.4 KB", "25 MB". */
export function sizeOf(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  const [size, unit] = bytes < 1024 ** 2 ? [bytes / 1024, "KB"] : [bytes / 1024 ** 2, "MB"];
  return `${short(size)} ${unit}`;
}

/** "950", "12k", "1.4M". */
export function tokensOf(count) {
  if (count < 1000) return `${count}`;
  return count < 999_500 ? `${short(count / 1000)}k` : `${short(count / 1e6)}M`;
}

/** "1 task", "2 tasks". */
export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

const short = (number) => `${number < 9.95 ? Math.round(number * 10) / 10 : Math.round(number)}`;
