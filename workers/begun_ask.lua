-- What visits have begun last, for whoever takes back their claims.
--
-- KEYS   era, then for each visit the hash of its worker
-- ARGV   the visits
-- reply  which memory this is, then what stands in each visit's field ('' where nothing does)

local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
local reply = {run .. '/' .. (redis.call('GET', KEYS[1]) or '')}
for i = 1, #ARGV do
    reply[i + 1] = redis.call('HGET', KEYS[i + 1], ARGV[i]) or ''
end
return reply
