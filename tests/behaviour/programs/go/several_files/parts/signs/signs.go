package signs

const Comma = ","
