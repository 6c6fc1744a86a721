-- Tell Redis what SQL knows of an account after Redis lost it. Only the first of an era counts.
--
-- KEYS   era, generation, slots, permits (as in pacing.lua)
-- ARGV   memory and its generation, as the caller knows them, window, remember_ms,
--        era (0: whichever it is), ms for which no slot is to be given, number of ages, ages in
--        ms (oldest mail first),
--        then for each holder: visit, lane, ms left
-- reply  1 where this seed counted

local MEMORY, GENERATION, WINDOW, REMEMBER = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local ERA, CLOSED, AGES = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local SLOTS, PERMITS = KEYS[3], KEYS[4]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
local marks = redis.call('MGET', KEYS[1], KEYS[2])
if run .. '/' .. (marks[1] or '') ~= MEMORY
    or tonumber(GENERATION) < tonumber(marks[2] or '0') then
    -- Another memory than the one that was asked.
    return 0
end

local known = redis.call('HMGET', SLOTS, 'gen', 'era', 'seeded')
if known[1] == GENERATION and known[3] then return 0 end
if ERA ~= '0' and (known[1] ~= GENERATION or known[2] ~= ERA) then
    -- Lost again since that visit looked into SQL: what it read there may be too little.
    return 0
end
if known[1] ~= GENERATION then
    redis.call('DEL', SLOTS, PERMITS)
    redis.call('HSET', SLOTS, 'gen', GENERATION,
        'era', string.format('%.0f', time[1] * 1000000 + time[2]))
end
redis.call('HSET', SLOTS, 'seeded', '1', 'closed', string.format('%.0f', now + CLOSED))
for i = 8, 7 + AGES do
    local age = tonumber(ARGV[i])
    if age < WINDOW then
        redis.call('RPUSH', PERMITS, string.format('%.0f', now + 1 - age))
    end
end
redis.call('PEXPIRE', PERMITS, WINDOW + 1000)
for i = 8 + AGES, #ARGV, 3 do
    redis.call('HSET', SLOTS, 's:' .. ARGV[i],
        string.format('%.0f 1 0 0 0 %s', now + tonumber(ARGV[i + 2]), ARGV[i + 1]))
end
redis.call('PEXPIRE', SLOTS, REMEMBER)
return 1
