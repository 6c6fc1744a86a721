-- What those who hold slots idle have to know, in one question for all of them.
--
-- KEYS   era, generation, wanted
-- ARGV   a name for the era, should there be none
-- reply  which memory this is, then the slots keys of accounts where somebody found no slot

redis.call('SET', KEYS[1], ARGV[1], 'NX')
-- As in pacing.lua: a server that was started again is another memory, and so is one that others
-- have left and come back to.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
local reply = redis.call('SMEMBERS', KEYS[3])
table.insert(reply, 1, run .. '/' .. redis.call('GET', KEYS[1]) .. '/'
    .. (redis.call('GET', KEYS[2]) or '0'))
return reply
