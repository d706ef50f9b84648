import greeting
from parts.word import word

print(greeting.text("python", word()))
