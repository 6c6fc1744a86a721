-- Which submission each visit of a worker has begun last.
--
-- KEYS   era, generation (as in pacing.lua), the worker's hash
-- ARGV   memory and its generation, as the caller knows them, how long the hash is kept in ms,
--        then for each visit: its name, and what stands in its field ('' takes it away)
-- reply  1; 0 where Redis has another memory, and nothing was done

local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
local marks = redis.call('MGET', KEYS[1], KEYS[2])
if run .. '/' .. (marks[1] or '') ~= ARGV[1] or ARGV[2] ~= (marks[2] or '0') then return 0 end
for i = 4, #ARGV, 2 do
    if ARGV[i + 1] == '' then
        redis.call('HDEL', KEYS[3], ARGV[i])
    else
        redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
    end
end
redis.call('PEXPIRE', KEYS[3], ARGV[3])
return 1
