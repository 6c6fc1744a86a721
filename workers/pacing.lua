-- The pacing of accounts, many requests in one call. All times are ms of this server's clock.
--
-- KEYS   era, generation, wanted, then for each request: slots, permits, pause, wake
-- ARGV   memory and its generation, as the caller knows them, a name for the era should there be
--        none, window, limit, reserve, connections, slot_ms, remember_ms,
--        then for each request: operation, visit, lane, critical, argument
-- reply  0, seven values for each request, this server's clock in ms; or, where the caller knows
--        another memory, and then nothing was done: 1, memory, generation, clock
--
-- permits  list: when the mails of the window were answered, oldest first
-- slots    hash: 'gen' and 'era' say which memory of the account this is, 'seeded' that it is
--          complete; 'closed' until when no slot is given, because somebody may still hold one
--          that was forgotten; 's:<visit>' =
--          '<runs out> <holds a permit> <critical> <halted> <is to give way> <lane>';
--          'l:<lane>' = '<last permit> <p0> <p1> <s0> <s1>': until when the lane counts as waiting
--          for a permit (p) or a slot (s), for a normal (0) or a critical mail (1); 0: it does
--          not; negative: it was told that there is one;
--          'c:<lane>' = the change of its account that was last counted
-- wanted   set: the slots keys where a lane waits for a slot, for those who hold slots idle
--
-- Lanes are the mailboxes that an account signs in for. Of those that wait, the one whose last
-- permit lies furthest back is first; the others leave as much free as those before them want.

local MEMORY, GENERATION = ARGV[1], ARGV[2]
local WINDOW, LIMIT, RESERVE = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local CONNECTIONS, SLOT, REMEMBER = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local NORMAL_CONNECTIONS = math.max(1, CONNECTIONS - 1)
-- How long something is kept for a lane that was told of it, and for one that found no slot: it
-- may be parked by now, or its worker dead.
local TOLD, WAITING, FORGOTTEN = 5000, 15000, 600000

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- A started millisecond counts as over, so that rounding never lets a mail go early.
local reply_time = now + 1
-- A server that was started again may have lost the last second: it is another memory.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
local marks = redis.call('MGET', KEYS[1], KEYS[2])
local era, newest = marks[1], marks[2] or '0'
if not era then
    era = ARGV[3]
    redis.call('SET', KEYS[1], era)
end
if run .. '/' .. era ~= MEMORY or tonumber(GENERATION) < tonumber(newest) then
    return {1, run .. '/' .. era, tonumber(newest), now}
end
if GENERATION ~= newest then redis.call('SET', KEYS[2], GENERATION) end

local account  -- the request's account, read once for the request

local function open(first_key)
    account = {slots_key = KEYS[first_key], permits_key = KEYS[first_key + 1], fields = {},
        slots = {}, lanes = {}, lane_count = 0, total = 0, normal = 0, held = 0, leaving = 0}
    local flat = redis.call('HGETALL', account.slots_key)
    local over = {}
    for i = 1, #flat, 2 do
        local name, value = flat[i], flat[i + 1]
        local kind = string.sub(name, 1, 2)
        if kind == 's:' then
            local ends, held, critical, halted, leaves, lane =
                string.match(value, '^(%d+) (%d) (%d) (%d) (%d) (.*)$')
            local slot = {ends = tonumber(ends), held = held == '1', critical = critical == '1',
                halted = halted == '1', leaves = leaves == '1', lane = lane}
            if slot.ends <= now then
                over[#over + 1] = slot
                redis.call('HDEL', account.slots_key, name)
            else
                account.slots[string.sub(name, 3)] = slot
                account.total = account.total + 1
                if not slot.critical then account.normal = account.normal + 1 end
                if slot.held then account.held = account.held + 1 end
                if slot.leaves then account.leaving = account.leaving + 1 end
            end
        elseif kind == 'l:' then
            local last, p0, p1, s0, s1 =
                string.match(value, '^(%d+) (%-?%d+) (%-?%d+) (%-?%d+) (%-?%d+)$')
            local lane = {last = tonumber(last), p0 = tonumber(p0), p1 = tonumber(p1),
                s0 = tonumber(s0), s1 = tonumber(s1)}
            local latest = math.max(lane.last, lane.p0, lane.p1, lane.s0, lane.s1)
            if latest + FORGOTTEN < now then
                redis.call('HDEL', account.slots_key, name)
            else
                account.lanes[string.sub(name, 3)] = lane
                account.lane_count = account.lane_count + 1
            end
        else
            account.fields[name] = value
        end
    end
    account.known = account.fields.seeded == '1' and account.fields.gen == GENERATION
    return over
end

local function push(moment)
    -- The list stays in order also when the clock is set back.
    local last = redis.call('LINDEX', account.permits_key, -1)
    if last then moment = math.max(moment, tonumber(last)) end
    redis.call('RPUSH', account.permits_key, string.format('%.0f', moment))
    redis.call('PEXPIRE', account.permits_key, WINDOW + math.max(0, moment - now) + 1000)
end

-- Forget what left the window, and count what a visit that died may have sent.
local function settle(over)
    table.sort(over, function(a, b) return a.ends < b.ends end)
    for _, slot in ipairs(over) do
        if slot.held then push(slot.ends) end
    end
    local oldest = redis.call('LINDEX', account.permits_key, 0)
    while oldest and tonumber(oldest) + WINDOW <= now do
        redis.call('LPOP', account.permits_key)
        oldest = redis.call('LINDEX', account.permits_key, 0)
    end
    account.stamps = redis.call('LLEN', account.permits_key)
end

local function flag(condition)
    return condition and 1 or 0
end

local function write(visit, slot)
    redis.call('HSET', account.slots_key, 's:' .. visit, string.format('%.0f %d %d %d %d %s',
        slot.ends, flag(slot.held), flag(slot.critical), flag(slot.halted), flag(slot.leaves),
        slot.lane))
end

local function write_lane(name)
    local lane = account.lanes[name]
    redis.call('HSET', account.slots_key, 'l:' .. name, string.format(
        '%.0f %.0f %.0f %.0f %.0f', lane.last, lane.p0, lane.p1, lane.s0, lane.s1))
end

local function lane_of(name)
    local lane = account.lanes[name]
    if not lane then
        lane = {last = now - WINDOW, p0 = 0, p1 = 0, s0 = 0, s1 = 0}
        account.lanes[name] = lane
        account.lane_count = account.lane_count + 1
        write_lane(name)
    end
    return lane
end

local function stamp(slot)
    if slot.held then
        push(reply_time)
        slot.held = false
        account.held = account.held - 1
        account.stamps = account.stamps + 1
    end
end

-- How many other lanes wait for this; of those that want it as much, only whose turn is earlier.
local function before(name, want, whoever)
    if account.lane_count < 2 then return 0 end
    local mine, count = account.lanes[name], 0
    for other_name, other in pairs(account.lanes) do
        if other_name ~= name and math.abs(other[want]) > now
            and (whoever or not mine or other.last < mine.last) then
            count = count + 1
        end
    end
    return count
end

-- How many permits are left for a lane: below 1 so many have to leave the window first.
local function room(critical, lane)
    local used = account.stamps + account.held
    if critical then return LIMIT - used - before(lane, 'p1') end
    local first = before(lane, 'p0')
    return math.min(LIMIT - RESERVE - used - first,
        LIMIT - used - first - before(lane, 'p1', true))
end

local function free(critical, lane)
    return math.max(0, room(critical, lane))
end

-- How many permits a lane may claim for at once: of more than one, its share.
local function share(critical, name)
    local left = free(critical, name)
    local want, slot = critical and 'p1' or 'p0', critical and 's1' or 's0'
    if left < 2 or account.lane_count < 2 then return left end
    local waiting = 0
    for other_name, other in pairs(account.lanes) do
        if other_name ~= name and (math.abs(other[want]) > now or math.abs(other[slot]) > now) then
            waiting = waiting + 1
        end
    end
    return math.max(1, math.floor(left / (1 + waiting)))
end

-- How long until a permit is free; what others hold cannot leave the window before it is stamped.
local function wait(critical, lane)
    local leaving = 1 - room(critical, lane)
    if leaving < 1 then return 0 end
    local moment = redis.call('LINDEX', account.permits_key, leaving - 1)
    if leaving > account.stamps or not moment then return WINDOW end
    return math.max(1, tonumber(moment) + WINDOW - now)
end

local function slot_free(critical, lane)
    if critical then return account.total + before(lane, 's1') < CONNECTIONS end
    local first = before(lane, 's0')
    return account.total + first + before(lane, 's1', true) < CONNECTIONS
        and account.normal + first < NORMAL_CONNECTIONS
end

-- Whether a slot is to go to somebody who waits: no more of them than there are waiting. Idle, it
-- goes to whoever it is; in use, to another lane, unless the one that has it can send and is first.
local function is_to_leave(slot, name, idle, may_send)
    local waiting, mine = 0, account.lanes[name]
    for other_name, other in pairs(account.lanes) do
        local critical = other.s1 > 0
        local normal = other.s0 > 0
            and (not slot.critical or account.normal < NORMAL_CONNECTIONS)
        local first = not may_send or (critical and not slot.critical)
            or (mine and other.last < mine.last)
        if (critical or normal) and (idle or (other_name ~= name and first)) then
            waiting = waiting + 1
        end
    end
    if slot.leaves then account.leaving = account.leaving - 1 end
    slot.leaves = account.leaving < waiting
    if slot.leaves then account.leaving = account.leaving + 1 end
    return slot.leaves
end

-- Take the account off the list where nobody waits for a slot any more.
local function tidy_wanted()
    for _, lane in pairs(account.lanes) do
        if lane.s0 > 0 or lane.s1 > 0 then return end
    end
    redis.call('SREM', KEYS[3], account.slots_key)
end

-- The lane that waits for this and was not told yet, and whose turn is first.
local function first_waiting(want)
    local found
    for name, lane in pairs(account.lanes) do
        if lane[want] > 0 and (not found or lane.last < account.lanes[found].last) then
            found = name
        end
    end
    return found
end

local operations = {}

function operations.enter(visit, name, critical, stamps, first_key)
    redis.call('DEL', KEYS[first_key + 3])
    if not account.known then
        if account.fields.gen ~= GENERATION then
            redis.call('DEL', account.slots_key, account.permits_key)
            account.fields.era = string.format('%.0f', time[1] * 1000000 + time[2])
            redis.call('HSET', account.slots_key, 'gen', GENERATION, 'era', account.fields.era)
        end
        redis.call('PEXPIRE', account.slots_key, REMEMBER)
        return {0, 0, 0, 0, 0, tonumber(account.fields.era), 0}
    end
    redis.call('PEXPIRE', account.slots_key, REMEMBER)
    local lane = lane_of(name)
    local slot = account.slots[visit]
    if stamps == '1' then
        -- Its slot may have run out while the mail was under way: it counts all the same.
        if slot then
            stamp(slot)
        else
            push(reply_time)
            account.stamps = account.stamps + 1
        end
    end
    local closed = math.max(0, (tonumber(account.fields.closed) or 0) - now)
    local pause = math.max(closed, redis.call('PTTL', KEYS[first_key + 2]))
    local normal, criticals, waits = share(false, name), share(true, name), wait(critical, name)
    if pause > 0 then
        normal, criticals, waits = 0, 0, math.max(pause + 1, waits)
    end
    local mine = critical and criticals or normal
    local permit_want = critical and 'p1' or 'p0'
    local slot_want = critical and 's1' or 's0'
    local leaves, changed = false, false
    if slot then
        leaves = is_to_leave(slot, name, false, mine > 0)
    elseif closed == 0 and slot_free(critical, name) then
        slot = {held = false, critical = critical, lane = name}
    end
    if slot then
        slot.ends = now + SLOT
        -- It claims anew, and SQL knows whether the mailbox is parked.
        slot.halted = false
        write(visit, slot)
        if lane[slot_want] ~= 0 then
            lane[slot_want], changed = 0, true
        end
    elseif mine > 0 or account.held > 0 then
        -- Without a permit a slot is worth nothing: then it comes again when there is one.
        lane[slot_want], changed = now + WAITING, true
        redis.call('SADD', KEYS[3], account.slots_key)
        redis.call('PEXPIRE', KEYS[3], REMEMBER)
    end
    if mine == 0 and pause == 0 and account.lane_count > 1 then
        lane[permit_want], changed = now + waits + TOLD, true
    end
    if changed then write_lane(name) end
    return {1, flag(slot), normal, criticals, waits, tonumber(account.fields.era), flag(leaves)}
end

function operations.permit(visit, name, critical, stamps, first_key)
    local slot = account.slots[visit]
    if not account.known or not slot then
        -- Its slot ran out while the mail was under way: count the mail at its true moment too.
        if account.known and stamps == '1' then push(reply_time) end
        return {0, 0, 0, 1, 0, 0, 0}
    end
    local lane = lane_of(name)
    if stamps == '1' then
        stamp(slot)
    elseif slot.held then
        -- Nothing is in flight. What it held may only have been presumed when Redis was taught
        -- again, and of all that are presumed to hold one there may be more than the limit.
        slot.held = false
        account.held = account.held - 1
    end
    slot.ends = now + SLOT
    local pause = math.max(0, redis.call('PTTL', KEYS[first_key + 2]))
    local granted = pause == 0 and not slot.halted and free(critical, name) > 0
    local waits, want = 0, critical and 'p1' or 'p0'
    if granted then
        account.held = account.held + 1
        slot.held = true
        if account.lane_count > 1 or lane[want] ~= 0 then
            lane.last, lane[want] = now, 0
            write_lane(name)
        end
    elseif not slot.halted then
        waits = math.max(pause > 0 and pause + 1 or 0, wait(critical, name))
        if account.held > 0 or (account.lane_count > 1 and pause == 0) then
            lane[want] = now + waits + TOLD
            write_lane(name)
        end
    end
    write(visit, slot)
    return {flag(granted), waits, pause, 0, 0, 0, 0}
end

function operations.stamp(visit)
    local slot = account.slots[visit]
    if not account.known or not slot then
        if account.known then push(reply_time) end
        return {0, 0, 0, 0, 0, 0, 0}
    end
    stamp(slot)
    slot.ends = now + SLOT
    write(visit, slot)
    return {1, 0, 0, 0, 0, 0, 0}
end

function operations.renew(visit, name, _, idle)
    local slot = account.slots[visit]
    if not account.known or not slot then return {0, 0, 0, 0, 0, 0, 0} end
    slot.ends = now + SLOT
    local leaves = is_to_leave(slot, name, idle == '1', false)
    write(visit, slot)
    tidy_wanted()
    return {1, flag(leaves), 0, 0, 0, 0, 0}
end

-- The argument is 1 if the mail in hand was sent, and 2 more if the lane has nothing to send.
function operations.leave(visit, name, _, argument)
    if not account.known then return {0, 0, 0, 0, 0, 0, 0} end
    local stamps, has_nothing = tonumber(argument) % 2 == 1, tonumber(argument) >= 2
    local slot, lane = account.slots[visit], account.lanes[name]
    local gave_back = false
    if slot then
        gave_back = slot.held and not stamps
        if stamps then stamp(slot) elseif slot.held then account.held = account.held - 1 end
        account.total = account.total - 1
        if not slot.critical then account.normal = account.normal - 1 end
        redis.call('HDEL', account.slots_key, 's:' .. visit)
    elseif stamps then
        push(reply_time)
        account.stamps = account.stamps + 1
    end
    if lane and has_nothing and (lane.p0 ~= 0 or lane.p1 ~= 0) then
        lane.p0, lane.p1 = 0, 0
        write_lane(name)
    end
    local reply = {0, 0, 0, 0, 0, 0, 0}
    for class = 1, 0, -1 do
        -- A lane is told once and only where there is something to be had, so that visits that
        -- find nothing do not wake each other for ever.
        local want = 's' .. class
        local first = first_waiting(want)
        if first and slot_free(class == 1, first) then
            account.lanes[first][want] = -(now + TOLD)
            write_lane(first)
            reply[class + 1] = first
        end
        want = 'p' .. class
        first = gave_back and first_waiting(want)
        if first and free(class == 1, first) > 0 then
            account.lanes[first][want] = -(now + TOLD)
            write_lane(first)
            reply[class + 3] = first
        end
    end
    tidy_wanted()
    return reply
end

-- What was sent for a lane while another account signed in for it counts for this one too, because
-- nobody documents which of them the server counts. The visit names the change: it counts once.
function operations.bring(change, name, _, ages)
    local mark = 'c:' .. name
    if not account.known or account.fields[mark] == change then return {0, 0, 0, 0, 0, 0, 0} end
    redis.call('HSET', account.slots_key, mark, change)
    local moments = {}
    for _, moment in ipairs(redis.call('LRANGE', account.permits_key, 0, -1)) do
        moments[#moments + 1] = tonumber(moment)
    end
    for age in string.gmatch(ages, '%d+') do
        if tonumber(age) < WINDOW then moments[#moments + 1] = reply_time - tonumber(age) end
    end
    table.sort(moments)
    redis.call('DEL', account.permits_key)
    for _, moment in ipairs(moments) do push(moment) end
    return {1, 0, 0, 0, 0, 0, 0}
end

function operations.halt(_, name)
    for visit, slot in pairs(account.slots) do
        if slot.lane == name then
            slot.halted = true
            write(visit, slot)
        end
    end
    return {1, 0, 0, 0, 0, 0, 0}
end

function operations.pause(_, _, _, pause_ms, first_key)
    -- A longer pause that was asked for before stays.
    if redis.call('PTTL', KEYS[first_key + 2]) < tonumber(pause_ms) then
        redis.call('SET', KEYS[first_key + 2], '1', 'PX', pause_ms)
    end
    return {1, 0, 0, 0, 0, 0, 0}
end

local replies = {0}
local first_key = 4
for i = 10, #ARGV, 5 do
    local over = open(first_key)
    if account.known then settle(over) end
    local reply = operations[ARGV[i]](ARGV[i + 1], ARGV[i + 2], ARGV[i + 3] == '1', ARGV[i + 4],
        first_key)
    for j = 1, 7 do replies[#replies + 1] = reply[j] end
    first_key = first_key + 4
end
replies[#replies + 1] = now
return replies
