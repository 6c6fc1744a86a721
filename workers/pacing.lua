-- The pacing of mailboxes, many requests in one call. All times are ms of this server's clock.
--
-- KEYS   wanted, then for each request: slots, permits, pause, wake
-- ARGV   window, limit, reserve, connections, slot_ms, remember_ms,
--        then for each request: operation, visit, critical, argument
-- reply  six integers for each request, then this server's clock in ms
--
-- permits  list: when the mails of the window were answered, oldest first
-- slots    hash: 'run' and 'era' say which memory of the mailbox this is, 'seeded' that it is
--          complete; 's:<visit>' = '<runs out> <holds a permit> <critical> <halted>';
--          'w:0', 'w:1' = a normal, a critical visit found no slot; 'p:0', 'p:1' = no permit
-- wanted   set: the slots keys with 'w:0' or 'w:1', for those who hold slots idle

local WINDOW, LIMIT, RESERVE = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local CONNECTIONS, SLOT, REMEMBER = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local NORMAL_CONNECTIONS = math.max(1, CONNECTIONS - 1)

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- A started millisecond counts as over, so that rounding never lets a mail go early.
local reply_time = now + 1
-- A server that was started again may have lost the last second: it is another memory.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''

local mailbox  -- the request's mailbox, read once for the request

local function open(first_key)
    mailbox = {slots_key = KEYS[first_key], permits_key = KEYS[first_key + 1], fields = {},
        slots = {}, total = 0, normal = 0, held = 0}
    local flat = redis.call('HGETALL', mailbox.slots_key)
    local over = {}
    for i = 1, #flat, 2 do
        local name, value = flat[i], flat[i + 1]
        if string.sub(name, 1, 2) == 's:' then
            local ends, held, critical, halted = string.match(value, '^(%d+) (%d) (%d) ?(%d?)$')
            local slot = {ends = tonumber(ends), held = held == '1', critical = critical == '1',
                halted = halted == '1'}
            if slot.ends <= now then
                over[#over + 1] = slot
                redis.call('HDEL', mailbox.slots_key, name)
            else
                mailbox.slots[string.sub(name, 3)] = slot
                mailbox.total = mailbox.total + 1
                if not slot.critical then mailbox.normal = mailbox.normal + 1 end
                if slot.held then mailbox.held = mailbox.held + 1 end
            end
        else
            mailbox.fields[name] = value
        end
    end
    mailbox.known = mailbox.fields.seeded == '1' and mailbox.fields.run == run
    return over
end

local function push(moment)
    -- The list stays in order also when the clock is set back.
    local last = redis.call('LINDEX', mailbox.permits_key, -1)
    if last then moment = math.max(moment, tonumber(last)) end
    redis.call('RPUSH', mailbox.permits_key, string.format('%.0f', moment))
    redis.call('PEXPIRE', mailbox.permits_key, WINDOW + math.max(0, moment - now) + 1000)
end

-- Forget what left the window, and count what a visit that died may have sent.
local function settle(over)
    table.sort(over, function(a, b) return a.ends < b.ends end)
    for _, slot in ipairs(over) do
        if slot.held then push(slot.ends) end
    end
    local oldest = redis.call('LINDEX', mailbox.permits_key, 0)
    while oldest and tonumber(oldest) + WINDOW <= now do
        redis.call('LPOP', mailbox.permits_key)
        oldest = redis.call('LINDEX', mailbox.permits_key, 0)
    end
    mailbox.stamps = redis.call('LLEN', mailbox.permits_key)
end

local function write(visit, slot)
    redis.call('HSET', mailbox.slots_key, 's:' .. visit, string.format('%.0f %d %d %d',
        slot.ends, slot.held and 1 or 0, slot.critical and 1 or 0, slot.halted and 1 or 0))
end

local function stamp(slot)
    if slot.held then
        push(reply_time)
        slot.held = false
        mailbox.held = mailbox.held - 1
        mailbox.stamps = mailbox.stamps + 1
    end
end

local function limit(critical)
    return critical and LIMIT or LIMIT - RESERVE
end

local function free(critical)
    return math.max(0, limit(critical) - mailbox.stamps - mailbox.held)
end

local function slot_free(critical)
    return mailbox.total < CONNECTIONS and (critical or mailbox.normal < NORMAL_CONNECTIONS)
end

-- How long until a permit is free; what others hold cannot leave the window before it is stamped.
local function wait(critical)
    local leaving = mailbox.stamps + mailbox.held - limit(critical)
    if leaving < 0 then return 0 end
    local moment = redis.call('LINDEX', mailbox.permits_key, leaving)
    if leaving >= mailbox.stamps or not moment then return WINDOW end
    return math.max(1, tonumber(moment) + WINDOW - now)
end

local function flag(condition)
    return condition and 1 or 0
end

-- Take the mailbox off the list where nobody waits for a slot any more.
local function tidy_wanted()
    if not mailbox.fields['w:0'] and not mailbox.fields['w:1'] then
        redis.call('SREM', KEYS[1], mailbox.slots_key)
    end
end

local operations = {}

function operations.enter(visit, critical, stamps, first_key)
    redis.call('DEL', KEYS[first_key + 3])
    if not mailbox.known then
        if mailbox.fields.run ~= run then
            redis.call('DEL', mailbox.slots_key, mailbox.permits_key)
            mailbox.fields.era = string.format('%.0f', time[1] * 1000000 + time[2])
            redis.call('HSET', mailbox.slots_key, 'run', run, 'era', mailbox.fields.era)
        end
        redis.call('PEXPIRE', mailbox.slots_key, REMEMBER)
        return {0, 0, 0, 0, 0, tonumber(mailbox.fields.era)}
    end
    redis.call('PEXPIRE', mailbox.slots_key, REMEMBER)
    local slot = mailbox.slots[visit]
    if stamps == '1' then
        -- Its slot may have run out while the mail was under way: it counts all the same.
        if slot then
            stamp(slot)
        else
            push(reply_time)
            mailbox.stamps = mailbox.stamps + 1
        end
    end
    if not slot and slot_free(critical) then
        slot = {held = false, critical = critical}
    end
    if slot then
        slot.ends = now + SLOT
        -- It claims anew, and SQL knows whether the mailbox is parked.
        slot.halted = false
        write(visit, slot)
    else
        redis.call('HSET', mailbox.slots_key, critical and 'w:1' or 'w:0', '1')
        redis.call('SADD', KEYS[1], mailbox.slots_key)
        redis.call('PEXPIRE', KEYS[1], REMEMBER)
    end
    local pause = math.max(0, redis.call('PTTL', KEYS[first_key + 2]))
    if pause > 0 then
        return {1, flag(slot), 0, 0, math.max(pause + 1, wait(critical)),
            tonumber(mailbox.fields.era)}
    end
    return {1, flag(slot), free(false), free(true), wait(critical), tonumber(mailbox.fields.era)}
end

function operations.permit(visit, critical, stamps, first_key)
    local slot = mailbox.slots[visit]
    if not mailbox.known or not slot then
        -- Its slot ran out while the mail was under way: count the mail at its true moment too.
        if mailbox.known and stamps == '1' then push(reply_time) end
        return {0, 0, 0, 1, 0, 0}
    end
    if stamps == '1' then
        stamp(slot)
    elseif slot.held then
        -- Nothing is in flight. What it held may only have been presumed when Redis was taught
        -- again, and of all that are presumed to hold one there may be more than the limit.
        slot.held = false
        mailbox.held = mailbox.held - 1
    end
    slot.ends = now + SLOT
    local pause = math.max(0, redis.call('PTTL', KEYS[first_key + 2]))
    local granted = pause == 0 and not slot.halted and free(critical) > 0
    local waits = 0
    if granted then
        mailbox.held = mailbox.held + 1
        slot.held = true
    elseif not slot.halted then
        waits = math.max(pause > 0 and pause + 1 or 0, wait(critical))
        if mailbox.held > 0 then
            redis.call('HSET', mailbox.slots_key, critical and 'p:1' or 'p:0', '1')
        end
    end
    write(visit, slot)
    return {flag(granted), waits, pause, 0, 0, 0}
end

function operations.stamp(visit)
    local slot = mailbox.slots[visit]
    if not mailbox.known or not slot then
        if mailbox.known then push(reply_time) end
        return {0, 0, 0, 0, 0, 0}
    end
    stamp(slot)
    slot.ends = now + SLOT
    write(visit, slot)
    return {1, 0, 0, 0, 0, 0}
end

function operations.renew(visit)
    local slot = mailbox.slots[visit]
    if not mailbox.known or not slot then return {0, 0, 0, 0, 0, 0} end
    slot.ends = now + SLOT
    write(visit, slot)
    tidy_wanted()
    return {1, flag(mailbox.fields['w:0'] or mailbox.fields['w:1']), 0, 0, 0, 0}
end

function operations.leave(visit, _, stamps)
    if not mailbox.known then return {0, 0, 0, 0, 0, 0} end
    local slot = mailbox.slots[visit]
    local gave_back = false
    if slot then
        gave_back = slot.held and stamps ~= '1'
        if stamps == '1' then stamp(slot) elseif slot.held then mailbox.held = mailbox.held - 1 end
        mailbox.total = mailbox.total - 1
        if not slot.critical then mailbox.normal = mailbox.normal - 1 end
        redis.call('HDEL', mailbox.slots_key, 's:' .. visit)
    elseif stamps == '1' then
        push(reply_time)
    end
    local reply = {0, 0, 0, 0, 0, 0}
    for class = 0, 1 do
        local slot_mark, permit_mark = 'w:' .. class, 'p:' .. class
        -- A mark is honoured once and only where there is something to be had, so that visits
        -- that find nothing do not wake each other for ever.
        if mailbox.fields[slot_mark] and slot_free(class == 1) then
            redis.call('HDEL', mailbox.slots_key, slot_mark)
            mailbox.fields[slot_mark] = nil
            reply[class + 1] = 1
        end
        if mailbox.fields[permit_mark] and gave_back and free(class == 1) > 0 then
            redis.call('HDEL', mailbox.slots_key, permit_mark)
            reply[class + 1] = 1
        end
    end
    tidy_wanted()
    return reply
end

function operations.halt()
    for visit, slot in pairs(mailbox.slots) do
        slot.halted = true
        write(visit, slot)
    end
    return {1, 0, 0, 0, 0, 0}
end

function operations.pause(_, _, pause_ms, first_key)
    -- A longer pause that was asked for before stays.
    if redis.call('PTTL', KEYS[first_key + 2]) < tonumber(pause_ms) then
        redis.call('SET', KEYS[first_key + 2], '1', 'PX', pause_ms)
    end
    return {1, 0, 0, 0, 0, 0}
end

local replies = {}
local first_key = 2
for i = 7, #ARGV, 4 do
    local over = open(first_key)
    if mailbox.known then settle(over) end
    local reply = operations[ARGV[i]](ARGV[i + 1], ARGV[i + 2] == '1', ARGV[i + 3], first_key)
    for j = 1, 6 do replies[#replies + 1] = reply[j] end
    first_key = first_key + 4
end
replies[#replies + 1] = now
return replies
