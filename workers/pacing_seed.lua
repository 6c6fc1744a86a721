-- Tell Redis what SQL knows of a mailbox after Redis lost it. Only the first of an era counts.
--
-- KEYS   slots, permits (as in pacing.lua)
-- ARGV   window, remember_ms, era (0: whichever it is), number of ages,
--        ages in ms (oldest mail first), then for each holder: visit, ms left
-- reply  1 where this seed counted

local WINDOW, REMEMBER, ERA, AGES = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''

local known = redis.call('HMGET', KEYS[1], 'run', 'era', 'seeded')
if known[1] == run and known[3] then return 0 end
if ERA ~= '0' and (known[1] ~= run or known[2] ~= ERA) then
    -- Lost again since that visit looked into SQL: what it read there may be too little.
    return 0
end
if known[1] ~= run then
    redis.call('DEL', KEYS[1], KEYS[2])
    redis.call('HSET', KEYS[1], 'run', run,
        'era', string.format('%.0f', time[1] * 1000000 + time[2]))
end
redis.call('HSET', KEYS[1], 'seeded', '1')
for i = 5, 4 + AGES do
    local age = tonumber(ARGV[i])
    if age < WINDOW then
        redis.call('RPUSH', KEYS[2], string.format('%.0f', now + 1 - age))
    end
end
redis.call('PEXPIRE', KEYS[2], WINDOW + 1000)
for i = 5 + AGES, #ARGV, 2 do
    redis.call('HSET', KEYS[1], 's:' .. ARGV[i],
        string.format('%.0f 1 0', now + tonumber(ARGV[i + 1])))
end
redis.call('PEXPIRE', KEYS[1], REMEMBER)
return 1
