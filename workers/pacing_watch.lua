-- What those who hold slots idle have to know, in one question for all of them.
--
-- KEYS   era, wanted
-- ARGV   a name for the era, should there be none
-- reply  which memory this is, then the slots keys of mailboxes where somebody found no slot

redis.call('SET', KEYS[1], ARGV[1], 'NX')
-- As in pacing.lua: a server that was started again is another memory.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
local reply = redis.call('SMEMBERS', KEYS[2])
table.insert(reply, 1, run .. '/' .. redis.call('GET', KEYS[1]))
return reply
