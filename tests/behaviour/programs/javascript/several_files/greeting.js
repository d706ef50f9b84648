export const text = (name, joint, word) => `greetings from several files of ${name}${joint}${word}`;
