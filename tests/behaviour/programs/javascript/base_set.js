const { spawnSync } = require("child_process")

const parts = {}
const format = new Intl.DateTimeFormat("en-CA", {
  timeZone: "America/New_York", timeZoneName: "short", hourCycle: "h23",
  year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit",
})
for (const { type, value } of format.formatToParts(new Date(0))) parts[type] = value
process.env.TZ = "America/New_York"
const { year, month, day, hour, minute, timeZoneName } = parts
console.log(`${year}-${month}-${day} ${hour}:${minute} ${timeZoneName}`)
if (new Date(0).getHours() !== 19) console.log("TZ", new Date(0).getHours())
delete process.env.TZ
spawnSync("bash", ["base_set.sh"], { stdio: "inherit" })
