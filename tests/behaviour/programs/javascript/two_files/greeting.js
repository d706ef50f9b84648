exports.text = (name) => `greetings from two files of ${name}`;
