from lin import *
tr=(~META.held).to_numpy(); K=META.kind.to_numpy(); SRC=META.src.to_numpy()
cl=META.clean.to_numpy(); lf=META.logfr.to_numpy(); fr=META.frrank.to_numpy()
m=tr&(K=='clean'); ch=[16,24,48,120,352]; B=[];o=0
for c in ch: B.append(slice(o,o+2*c)); o+=2*c
GL=zs.set_index('image').value.reindex(LAB.image).to_numpy()
print('grepq-ll dev',sr(GL,MOS))
def stagewise(y,pens,use=(1,2,3,4)):
    out=[0,0,0]
    for i in use:
        f=ridge(POOL[m][:,B[i]],y[m],pens[i]); s=f(POOL[m][:,B[i]]).std()
        out[0]+=f(DEV[:,B[i]])/s; out[1]+=f(SYNF[:,B[i]])/s; out[2]+=f(POOL[HELD][:,B[i]])/s
    return out
for nm,y in (('clean',cl),('logfr',lf),('frrank',fr),('cl+lf',z(cl)+z(lf))):
    for p in (3e3,1e4,3e4):
        o_=stagewise(y,[p]*5); report(f'stagewise {nm} {p:g}',*o_,HT)
    o_=stagewise(y,[1e4]*5,(1,3,4)); report(f'stagewise 1,3,4 {nm}',*o_,HT)
    o_=stagewise(y,[1e4]*5,(3,4)); report(f'stagewise 3,4 {nm}',*o_,HT)
    o_=stagewise(y,[1e4]*5,(1,2,3)); report(f'stagewise 1,2,3 {nm}',*o_,HT)
o_=stagewise(cl,[1e4]*5); d=o_[0]; print('fusion with ll', sr(rankdata(d)+rankdata(GL),MOS))
