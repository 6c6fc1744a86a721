-- What is left of the windows of accounts, for people to see. Changes nothing.
--
-- KEYS   generation, then for each account: slots, permits, pause (as in pacing.lua)
-- ARGV   window, limit, reserve
-- reply  for each account: 1 where Redis knows it, permits that are free for normal mails, for
--        criticals, ms until one is free for a normal mail

local WINDOW, LIMIT, RESERVE = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local generation = redis.call('GET', KEYS[1])

-- When the mails of the window were answered, those of visits that died in between too, and how
-- many permits are held.
local function taken(slots_key, permits_key)
    local moments, held = {}, 0
    for _, moment in ipairs(redis.call('LRANGE', permits_key, 0, -1)) do
        if tonumber(moment) + WINDOW > now then moments[#moments + 1] = tonumber(moment) end
    end
    local flat = redis.call('HGETALL', slots_key)
    for i = 1, #flat, 2 do
        if string.sub(flat[i], 1, 2) == 's:' then
            local ends, holds = string.match(flat[i + 1], '^(%d+) (%d)')
            ends = tonumber(ends)
            if holds == '1' and ends > now then
                held = held + 1
            elseif holds == '1' and ends + WINDOW > now then
                moments[#moments + 1] = ends
            end
        end
    end
    table.sort(moments)
    return moments, held
end

local function wait(moments, held)
    local leaving = #moments + held - (LIMIT - RESERVE)
    if leaving < 0 then return 0 end
    local moment = moments[leaving + 1]
    return moment and math.max(1, moment + WINDOW - now) or WINDOW
end

local reply = {}
for i = 2, #KEYS, 3 do
    local known = redis.call('HMGET', KEYS[i], 'gen', 'seeded')
    local row = {0, 0, 0, 0}
    if known[1] and known[1] == generation and known[2] == '1' then
        local moments, held = taken(KEYS[i], KEYS[i + 1])
        local left = LIMIT - #moments - held
        local pause = math.max(0, redis.call('PTTL', KEYS[i + 2]))
        row = {1, math.max(0, left - RESERVE), math.max(0, left),
            math.max(pause, wait(moments, held))}
        if pause > 0 then row[2], row[3] = 0, 0 end
    end
    for j = 1, 4 do reply[#reply + 1] = row[j] end
end
return reply
